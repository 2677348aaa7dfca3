"""Settings for a study that follow from its cases: facts, rules, and the files they become."""
