"""The blocks of which model, train and test files consist."""
