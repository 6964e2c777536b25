"""The machine: devices, numbers, processes, the compile cache, memory and profiles.

May import `core`.
"""
