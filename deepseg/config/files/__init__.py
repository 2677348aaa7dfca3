"""Config files as plain values that know their lines, whatever their format."""
