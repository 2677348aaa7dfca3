"""Cross-validation: a session of sessions, one for each fold of the training cases."""
