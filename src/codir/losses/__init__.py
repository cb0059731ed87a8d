"""Loss terms: one objective, one file, found by its name (see `registry`)."""
