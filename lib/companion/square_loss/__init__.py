"""Paper B: classifiers trained with the square loss."""
