"""One straight line per command: new model, train, test, check, show, demo."""
