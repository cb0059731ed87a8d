"""Run configuration: typed settings, recipes as data, overrides."""
