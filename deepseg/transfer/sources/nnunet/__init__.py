"""Models that nnU-Net has trained: their plans, their network, the preparation of their cases."""
