"""One curve fit: from checked arguments to a result, and what a result can tell."""
