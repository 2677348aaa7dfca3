"""Boxes, receptive fields and context grids: exact integer arithmetic without torch."""
