"""Which students are trained on which sets, their scores, and what these mean.

May import `training`, `recovery` and the floors below them.
"""
