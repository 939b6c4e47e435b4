"""Where to start: guesses from the data."""
