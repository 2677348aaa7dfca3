"""Losses, optimisers, schedules and the loop over one epoch."""
