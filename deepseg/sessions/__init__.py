"""What a command keeps in a folder: its run, its results, its processes."""
