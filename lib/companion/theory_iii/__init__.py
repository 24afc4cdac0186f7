"""Paper D: dynamics and generalisation, Theory III."""
