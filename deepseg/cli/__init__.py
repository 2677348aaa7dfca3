"""Command-line arguments to one call, errors to exit codes."""
