"""Arithmetic and small helpers that know nothing of files, devices or settings.

Imports nothing of delt_jax but `errors`.
"""
