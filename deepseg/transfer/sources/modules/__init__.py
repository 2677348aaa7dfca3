"""Modules of torch as graphs: found by name, traced, their operators translated."""
