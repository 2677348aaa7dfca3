"""DeepMedic's keys, as tables, and how they become ours."""
