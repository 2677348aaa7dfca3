"""Model, train and test files: their keys, read and judged without torch."""
