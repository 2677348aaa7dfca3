"""Pathways of pre-activation layers, and the network they form."""
