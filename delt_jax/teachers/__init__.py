"""Teachers: trained networks with everything needed to use them rightly, and their statistics.

May import `models`, `augment`, `data` and the floors below them.
"""
