"""The recipes, one a file; installed as `delt_jax.configs`."""
