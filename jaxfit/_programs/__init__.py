"""Compiled programs: what they are known by, kept within a budget, and given up."""
