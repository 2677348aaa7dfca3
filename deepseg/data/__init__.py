"""From image files to batches of segments."""
