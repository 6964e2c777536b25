"""Recovery of images: the EarlyLate schedule, where images start, and one iteration.

The algorithm reads from `schedule` and `step`; `run` drives it over devices. May import `terms`,
`teachers` and the floors below them.
"""
