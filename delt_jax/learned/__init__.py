"""Sets that are learned through networks in training: the batch-to-batch family.

May import `training` and what stands below it.
"""
