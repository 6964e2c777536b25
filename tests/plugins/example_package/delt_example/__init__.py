"""Parts for delt_jax from outside."""
