"""DELT dataset distillation in JAX: squeeze, rank, recover, relabel, evaluate, report."""

__version__ = "0.1.0"
