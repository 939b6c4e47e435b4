"""Is one fit right, in its end, its derivative and its time?"""
