"""Weights of an older model on their way into a newer one."""
