"""The user's functions: callables as PyTrees, their signature, rows, differences."""
