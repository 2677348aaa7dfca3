"""One straight line per command."""
