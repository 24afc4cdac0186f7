"""Sources: pages and their cells, parameters, keys, statements and what a claim rests on. Nothing is executed."""
