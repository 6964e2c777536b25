"""The package of docs/extending.md as if pip had installed it, without pip."""

import contextlib
import shutil
import sys
import tomllib
from pathlib import Path

import jax.numpy as jnp
import optax
from flax import linen as nn

from delt_jax.core import plugins

PACKAGE = Path(__file__).parent / "example_package"


@contextlib.contextmanager
def installed(folder: Path):
    """A context in which the package, or an edited copy, lies in a folder of sys.path.

    It is imported anew there, and nothing of it is left afterwards, as in a new process.
    """
    if not (folder / "delt_example").exists():
        shutil.copytree(PACKAGE / "delt_example", folder / "delt_example")
    declare(folder, tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"])
    sys.path.insert(0, str(folder))
    forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget()


def forget() -> None:
    """Forgets what has been imported of the package, and what was named."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "delt_example"]:
        del sys.modules[name]
    plugins.forget()


def declare(folder: Path, project: dict) -> None:
    """Writes what importlib.metadata reads of an installed package."""
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


# Parts that are named "outside:...".

adam = optax.scale_by_adam(b1=0.5, b2=0.9, eps=1e-8)


def lookahead():
    """An optimiser whose state is begun by the image, beside a count."""

    def update(grads, state, image):
        slow, count = state
        return grads + 0.1 * (image - slow), (0.9 * slow + 0.1 * image, count + 1)

    return optax.GradientTransformation(lambda image: (image, jnp.int32(0)), update)


def growing():
    """No optimiser of images: its state changes its type."""
    return optax.GradientTransformation(
        lambda image: jnp.int32(0), lambda grads, state, image: (grads, state + 0.5)
    )


class Net(nn.Module):
    """A network that can be made wrong in several ways.

    Attributes:
      fault: what is wrong with it.
    """

    num_classes: int
    fault: str = ""

    @nn.compact
    def __call__(self, images, train):
        """Logits of images [B, S, S, C]."""
        axis = 1 if self.fault == "axis" else -1
        x = nn.Conv(4, (3, 3))(images) if self.fault != "no convolution" else images
        norm = nn.BatchNorm(use_running_average=not train, axis=axis)
        x = norm(norm(x)) if self.fault == "twice" else norm(x)
        x = x.mean((1, 2))
        if self.fault == "no dense":
            return nn.Conv(self.num_classes, (1,))(x[:, None])[:, 0]
        if self.fault == "sown":
            self.sow("features", "pooled", x)
            return nn.Conv(self.num_classes, (1,))(x[:, None])[:, 0]
        x = nn.Dense(self.num_classes + (self.fault == "classes"))(x)
        if self.fault == "counts":
            count = self.variable("counts", "n", jnp.zeros, ())
            x = x + count.value
        return x.astype(jnp.bfloat16) if self.fault == "bfloat16" else x


def faulty(fault):
    """A function of a specification that builds such a network."""
    return lambda spec: Net(spec.num_classes, fault)


axis, twice, classes, bfloat16, counts, sown = map(
    faulty, ("axis", "twice", "classes", "bfloat16", "counts", "sown")
)
no_dense, no_convolution = faulty("no dense"), faulty("no convolution")
