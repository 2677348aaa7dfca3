"""A page of results that holds all it shows: it opens in a browser, also without a network."""
