"""What users write in model, train and test files, read and judged without torch."""
