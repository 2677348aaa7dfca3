"""What the operators of a foreign graph compute, as functions of torch tensors."""
