"""The registry: evidence and verdicts, how they came to be, and how two machines compare."""
