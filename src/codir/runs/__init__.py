"""One file for each thing a user does, and what those files share: run folder, table, card, timing."""
