"""Running: one page in a kernel of its own, all pages through an engine, and what became of them."""
