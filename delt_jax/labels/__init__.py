"""Soft labels: how teachers make them, how they are compressed, and how they are stored.

May import `teachers` and the floors below it.
"""
