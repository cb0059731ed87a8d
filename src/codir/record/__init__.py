"""What a run folder holds and says: state, fingerprint, environment, card, and what the run read."""
