"""Paper E: weight balancing."""
