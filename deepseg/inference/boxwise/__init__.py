"""The fast engine: any box of the prediction by itself."""
