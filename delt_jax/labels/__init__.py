"""Soft labels: how teachers make them, how they are packed, and how they lie on disk.

May import `teachers` and the floors below it.
"""
