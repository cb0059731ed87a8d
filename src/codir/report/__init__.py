"""The page people look at: what a run or a study kept and gained, as one self-contained HTML file."""
