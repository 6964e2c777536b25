"""How a recovery is driven: groups of batches on devices, saved as they go.

May import the rest of `recovery` and what that may import.
"""
