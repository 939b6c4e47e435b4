"""Do standard errors and intervals hold what they promise, and at what cost?"""
