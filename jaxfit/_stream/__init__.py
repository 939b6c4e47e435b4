"""Data larger than memory: sources, passes over blocks, checkpoints."""
