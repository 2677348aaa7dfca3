"""Files that are whole or absent, and the .save file of a model."""
