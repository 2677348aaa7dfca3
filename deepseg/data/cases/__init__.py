"""Cases: where they are listed, what they hold, what is wrong with them."""
