"""Data: small sets with their provenance, and the files that they lie in."""
