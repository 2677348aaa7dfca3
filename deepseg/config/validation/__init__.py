"""Config files against the models: their values, or all problems with keys and lines."""
