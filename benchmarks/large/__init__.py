"""How far do time and memory go with the number of data and of parameters?"""
