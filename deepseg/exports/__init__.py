"""Models as files that other programs run, verified before they get their names."""
