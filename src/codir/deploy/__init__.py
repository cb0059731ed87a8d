"""What is done with a finished model: export, measure, publish, submit."""
