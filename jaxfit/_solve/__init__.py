"""One fit: the method and the problem joined, its solution and derivative."""
