"""What decides the claims of the book: studies, and one folder a paper."""
