"""The command line, and what a command does from end to end."""
