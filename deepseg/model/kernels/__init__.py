"""Everything that is quick rather than plain; the rest of the model knows only its doors."""
