"""Several runs side by side: the cells of a grid, what they share, their tables and figures.

May import `stages` and every floor below it.
"""
