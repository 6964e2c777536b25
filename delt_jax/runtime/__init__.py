"""The machine: devices, processes, signals, the compile cache, memory and profiles.

May import `core`.
"""
