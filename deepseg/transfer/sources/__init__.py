"""Files of older models, read into one shape."""
