"""Many fits of equal structure as lanes of one traced loop."""
