"""What do the entries in SciPy's form cost, and do they agree with SciPy?"""
