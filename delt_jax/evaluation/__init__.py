"""What students are trained on, and what their scores mean.

May import `training`, `recovery` and the floors below them.
"""
