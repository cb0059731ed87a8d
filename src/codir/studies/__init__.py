"""Studies: recipes x tasks x students x seeds x settings, by any number of workers, and what came of them."""
