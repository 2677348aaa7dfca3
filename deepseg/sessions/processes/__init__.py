"""Several processes that share a session, and their common end."""
