"""Many curve fits: data in slices through one program, and maps of results."""
