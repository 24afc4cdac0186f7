"""Sources: pages and their cells, parameters, keys and settings. Nothing is executed."""
