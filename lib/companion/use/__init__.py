"""Mechanics of the how-to pages: the library on networks of one's own."""
