"""Norms while a network trains: their laws, growth and margins, and a monitor for any network."""
