"""A foreign network as a graph of operators; no file format is known here."""
