"""JAX as the environment variables of the user's machine let it start."""

import os

from delt_jax.errors import UserError


def import_jax() -> None:
    """Imports JAX, which reads its environment variables then.

    Raises:
      UserError: if one of them has a value that JAX does not know.
    """
    try:
        import jax  # noqa: F401 (only to see whether it can be)
    except ValueError as e:
        raise UserError(f"JAX cannot start: {e}; correct or unset that variable.") from e


def check_devices() -> None:
    """Starts JAX's devices.

    Raises:
      UserError: if the platform that JAX_PLATFORMS asks for is not there.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, ValueError, AssertionError) as e:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(e).splitlines() or ["it has no such platform"])[0].rstrip(".")
        raise UserError(
            f"JAX finds no devices with JAX_PLATFORMS={asked!r} ({reason}); unset it, or install "
            f"JAX for that platform."
        ) from e
