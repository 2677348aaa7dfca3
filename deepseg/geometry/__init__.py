"""Boxes, receptive fields and context: exact integer arithmetic without torch."""
