"""The operators of a foreign graph, as functions of torch tensors."""
