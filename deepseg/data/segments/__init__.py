"""Segments: where they are cut, how they are changed, and how they come as batches."""
