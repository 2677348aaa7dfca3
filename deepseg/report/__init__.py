"""What a person sees: console lines, tables, curves and pictures."""
