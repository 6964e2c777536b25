"""What decides which numbers a key gives.

JAX's environment variables can change both, so `runtime.numerics` fixes them for every run, and
every manifest records them. Stands apart from `keys`, so that manifests are read without JAX.
"""

IMPLEMENTATION = "threefry2x32"
RANDOM_NUMBERS = {"implementation": IMPLEMENTATION, "jax_threefry_partitionable": True}
