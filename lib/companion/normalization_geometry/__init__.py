"""Paper C: normalisation as geometry."""
