"""Paper A: balance between layers, and norms."""
