"""Other editions of a finished site."""
