"""What is measured of models: scores side by side, paired tests, times, costs."""
