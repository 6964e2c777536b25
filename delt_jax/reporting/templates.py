"""Pages from the templates of this package's folder `templates`; all values are escaped."""

import base64
import functools
from typing import Any

import jinja2

from delt_jax import __version__
from delt_jax.reporting import svg
from delt_jax.reporting.colours import COLOURS


def render(name: str, **values: Any) -> str:
    """One HTML file with nothing outside it.

    Args:
      name: of the template.
      values: what it reads; a missing one is an error.
    """
    page = _environment().get_template(name).render(**values, colours=COLOURS, version=__version__)
    return page.strip() + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("delt_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["data_uri"] = data_uri
    found.filters["svg"] = svg.inline  # which escapes what the drawing says
    return found


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
