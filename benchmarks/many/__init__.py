"""How fast are many small fits, and what do they take?"""
