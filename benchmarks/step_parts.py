"""Times each part of a recovery step alone and the whole step, in every form.

python benchmarks/step_parts.py             ResNet-18 at 224 px, on the device that is there
python benchmarks/step_parts.py --case=mobilenet_v2/64 --dtype=float32 --batch=16
                                            depthwise convolutions, too, where a model has any
python benchmarks/step_parts.py --write     also writes benchmarks/results/ and the tables of
                                            docs/performance.md

The forms are those of delt_jax/models/forms.py. All forms of a part run in turns; operations and
bytes are XLA's count of the compiled program. Everything is compiled first, side by side.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, get_args

import jax
import jax.numpy as jnp
import measured
import optax
import peaks
import step_table
from flax import linen as nn

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, forms, norm, pool
from delt_jax.models.forms import PLAIN, Forms
from delt_jax.models.tap import TappedNetwork
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import step_settings
from delt_jax.runtime import devices

PAGE = "docs/performance.md"
_CLASSES = 1000
_STEPS = 10  # of a whole run on accelerators, as one program
_LEAST = 3  # measurements


@dataclass(frozen=True)
class Part:
    """A part of the step.

    Attributes:
      name: what is timed.
      run: the function.
      arguments: arrays.
      forms: to time it in, by name, the plain one first.
      field: of `Forms` that the part depends on; "" for all, None for none.
      steps: how often the function does the part.
    """

    name: str
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    forms: dict[str, Forms]
    field: str | None
    steps: int = 1

    def is_chosen(self, form: Forms, chosen: Forms) -> bool:
        """Whether the part is the same in a form and in the one chosen for the device."""
        if not self.field:
            return self.field is None or form == chosen
        return getattr(form, self.field) == getattr(chosen, self.field)


def fields(name: str) -> dict[str, Forms]:
    """The plain form of one part and its others, as far as the device tells them apart."""
    kinds = {"stem": forms.Stem, "view": forms.View, "pool": forms.Pool}
    values = get_args((kinds | {"depthwise": forms.Depthwise})[name])
    if name == "view" and jax.default_backend() != "gpu":
        values = values[:1] if jax.default_backend() == "cpu" else values[:2]
    return {value: replace(PLAIN, **{name: value}) for value in values}


def parts(model: nn.Module, batch: int, size: int) -> list[Part]:
    """The parts alone, in the shapes and types that the model gives them.

    Args:
      model: whose first convolution has a stride.
      batch: images.
      size: their side.
    """
    images = jax.random.uniform(jax.random.key(0), (batch, size, size, 3), minval=-2, maxval=2)
    stem, variables, maps = first_layer(model, images)
    view = crop.random_view(jax.random.key(1), size, jnp.float32(0.3), shifts=(0, 4))
    pooled = jax.eval_shape(functools.partial(_pool, size=3), maps)
    upstream, upstream_pooled, upstream_view = (
        jax.random.normal(jax.random.key(2), like.shape).astype(like.dtype)
        for like in (maps, pooled, images)
    )
    centre = maps.astype(jnp.float32).mean((0, 1, 2)) + 0.1

    def seen(images, view):
        precision = forms.current(model.dtype).view_precision
        return crop.view_images(images, view, size, precision=precision)

    def moments(x):
        return norm.input_moments(x, centre)

    one = {"plain": PLAIN}
    return [
        Part("stem, forward", stem.apply, (variables, images), fields("stem"), "stem"),
        Part(
            "stem, input gradient",
            lambda v, x, g: jax.vjp(functools.partial(stem.apply, v), x)[1](g),
            (variables, images, upstream),
            fields("stem"),
            "stem",
        ),
        Part(
            "view, both ways",
            lambda x, v, g: both_ways(lambda x: seen(x, v), x, g),
            (images, view, upstream_view),
            fields("view"),
            "view",
        ),
        Part("max-pool, forward", _pool, (maps,), fields("pool"), "pool"),
        Part(
            "max-pool, both ways",
            functools.partial(both_ways, _pool),
            (maps, upstream_pooled),
            fields("pool"),
            "pool",
        ),
        Part("moments of the stem, both ways", lambda x: both_ways(moments, x), (maps,), one, None),
        *depthwise_parts(model, images),
    ]


def depthwise_parts(model: nn.Module, images: jax.Array) -> list[Part]:
    """The first depthwise convolution of each kernel and stride, if a model has any."""
    made: list[Part] = []
    for layer, like in depthwise_layers(model, images):
        x = jax.random.normal(jax.random.key(4), like.shape).astype(like.dtype)
        variables = layer.init(jax.random.key(5), x[:1])
        result = jax.eval_shape(layer.apply, variables, x)
        upstream = jax.random.normal(jax.random.key(6), result.shape).astype(result.dtype)
        size, stride = len(variables["params"]["kernel"]), like.shape[1] // result.shape[1]
        name = f"depthwise {size}x{size}, stride {stride}, {like.shape[1]} px x {like.shape[3]}"

        def of_input(variables, x, upstream, layer=layer):
            return jax.vjp(functools.partial(layer.apply, variables), x)[1](upstream)

        def of_kernel(variables, x, upstream, layer=layer):
            return jax.vjp(lambda variables: layer.apply(variables, x), variables)[1](upstream)

        form, given = fields("depthwise"), (variables, x, upstream)
        made += [
            Part(f"{name}, forward", layer.apply, given[:2], form, "depthwise"),
            Part(f"{name}, input gradient", of_input, given, form, "depthwise"),
            Part(f"{name}, kernel gradient", of_kernel, given, form, "depthwise"),
        ]
    return made


def depthwise_layers(
    model: nn.Module, images: jax.Array
) -> list[tuple[nn.Conv, jax.ShapeDtypeStruct]]:
    """Depthwise convolutions by themselves and what they are given, one of each kernel, stride."""
    found: dict[Any, tuple[nn.Conv, jax.ShapeDtypeStruct]] = {}

    def note(next_fun, args, kwargs, context):
        layer = context.module
        if isinstance(layer, nn.Conv) and layer.feature_group_count > 1:
            like = jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)
            alone = layer.clone(parent=None, name=None)
            found.setdefault((layer.kernel_size, layer.strides), (alone, like))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return list(found.values())


def both_ways(function: Callable[..., Any], x: jax.Array, upstream: Any = None) -> Any:
    """A function of x and its pullback of an upstream gradient, by default of ones."""
    y, pull = jax.vjp(function, x)
    return y, pull(jax.tree.map(jnp.ones_like, y) if upstream is None else upstream)


def _pool(x: jax.Array, size: int = 3) -> jax.Array:
    return pool.max_pool(x, size, 2, padding=1)


class _Stop(Exception):
    """The first layer, found while a model is traced."""


def first_layer(model: nn.Module, images: jax.Array) -> tuple[nn.Module, Any, jax.Array]:
    """The first convolution of a model by itself, random weights, and its output, after a ReLU."""

    def stop(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.Conv):
            raise _Stop(context.module)
        return next_fun(*args, **kwargs)

    try:
        with nn.intercept_methods(stop):
            jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    except _Stop as found:
        layer = found.args[0].clone(parent=None, name=None)
    variables = layer.init(jax.random.key(3), images[:1])
    return layer, variables, nn.relu(jax.jit(layer.apply)(variables, images))


def whole_step(model: nn.Module, batch: int, size: int, dtype: str) -> Part:
    """Views, objective, its gradient, Adam and clip; plain, with each form on, and as chosen."""
    images = jax.random.uniform(jax.random.key(0), (batch, size, size, 3), minval=-2, maxval=2)
    made = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images[:1])
    variables = {kind: made[kind] for kind in ("params", "batch_stats")}
    settings = step_settings(RecoverRecipe(), flip=True)
    labels, rate = jnp.arange(batch) % _CLASSES, jnp.full(batch, 0.25)
    bounds = jnp.full(3, -2.0), jnp.full(3, 2.0)
    steps = 1 if jax.default_backend() == "cpu" else _STEPS  # its convolutions are slow in a loop
    views = jax.vmap(lambda key: crop.random_view(key, size, jnp.float32(0.3)))(
        jax.random.split(jax.random.key(2), steps)
    )

    def step(state, view, variables):
        images, adam = state
        teacher = TappedNetwork(model, variables)
        grads, _ = jax.grad(recovery_step.loss, has_aux=True)(
            images, labels, view, teacher, settings
        )
        return recovery_step.adam_step(images, grads, adam, rate, bounds)

    def run(state, views, variables):
        if steps == 1:
            return step(state, jax.tree.map(lambda x: x[0], views), variables)
        return jax.lax.scan(lambda s, view: (step(s, view, variables), None), state, views)[0]

    zeros = jnp.zeros_like(images)
    adam = optax.ScaleByAdamState(jnp.zeros(batch, jnp.int32), zeros, zeros)
    tried = {"plain": PLAIN}
    parts = ("stem", "view", "pool")
    for name in (*parts, "depthwise") if depthwise_layers(model, images) else parts:
        tried |= {f"{name} {value}": form for value, form in fields(name).items() if form != PLAIN}
    tried["as chosen"] = forms.choose(jax.default_backend(), jnp.dtype(dtype))
    return Part("whole step", run, ((images, adam), views, variables), tried, "", steps)


def compile_parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The programs of each part by form, all compiled side by side."""
    with ThreadPoolExecutor() as threads:
        compiling = []
        for part in parts:
            waiting = {}
            for name, form in part.forms.items():
                with forms.forced(form):
                    # A function of its own for every form: jit would take the first one's trace
                    # for all.
                    lowered = jax.jit(lambda *given, p=part: p.run(*given)).lower(*part.arguments)
                waiting[name] = threads.submit(lowered.compile)
            compiling.append(waiting)
        return [{name: each.result() for name, each in one.items()} for one in compiling]


def seconds_of(part: Part, programs: dict[str, Any], budget: float) -> dict[str, list[float]]:
    """Seconds of a call of each program, in turns, until the budget is spent."""
    calls = {}
    for name, program in programs.items():
        jax.block_until_ready(program(*part.arguments))
        once = _timed(program, part.arguments, 1)
        # So many in a row that the device, not the call, sets the time.
        calls[name] = 1 if jax.default_backend() == "cpu" else max(1, min(50, int(0.02 / once)))
    spent: dict[str, list[float]] = {name: [] for name in programs}
    started = time.perf_counter()
    while time.perf_counter() - started < budget or min(map(len, spent.values())) < _LEAST:
        for name, program in programs.items():
            spent[name].append(_timed(program, part.arguments, calls[name]) / part.steps)
    return spent


def _timed(program: Any, arguments: Sequence[Any], calls: int) -> float:
    started, result = time.perf_counter(), None
    for _ in range(calls):
        result = program(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - started) / calls


def measure(
    part: Part, programs: dict[str, Any], chosen: argparse.Namespace, peak: peaks.Peaks
) -> list[dict[str, Any]]:
    """A row of the results for each form of a part."""
    seconds = seconds_of(part, programs, chosen.seconds)
    picked = forms.choose(jax.default_backend(), jnp.dtype(chosen.dtype))
    rows = []
    for name, program in programs.items():
        counted = program.cost_analysis()
        usual = statistics.median(seconds[name])
        rows.append(
            {
                "case": chosen.case,
                "dtype": chosen.dtype,
                "batch": chosen.batch,
                "part": part.name,
                "form": name,
                "chosen": part.is_chosen(part.forms[name], picked),
                "ms": measured.summary([1e3 * s for s in seconds[name]]),
                # XLA counts the body of a loop once.
                "flops": counted["flops"],
                "bytes": counted["bytes accessed"],
                "flops_rate": counted["flops"] / usual,
                "bytes_rate": counted["bytes accessed"] / usual,
                "peak_flops": peak.flops,
                "peak_bytes": peak.bytes,
                "device": jax.devices()[0].device_kind,
                "machine": devices.describe(),
                "date": date.today().isoformat(),
            }
        )
        say(f"{part.name}, {name}: {1e3 * usual:.3f} ms")
    return rows


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; defaults depend on the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add, on_cpu = parser.add_argument, jax.default_backend() == "cpu"
    add("--case", default="resnet18/224", help="a model with a strided stem, and pixels")
    add("--dtype", choices=("float32", "bfloat16"), default="float32" if on_cpu else "bfloat16")
    add("--batch", type=int, default=4 if on_cpu else 100, help="images per batch")
    add("--width", type=int, default=0, help="of the model; 0 is the paper's")
    add("--seconds", type=float, default=4 if on_cpu else 1, help="to measure each part")
    add("--write", action="store_true", help=f"write the results and {PAGE}")
    chosen = parser.parse_args(arguments)
    model, _, size = chosen.case.partition("/")
    if model not in models.NAMES or not size.isdecimal():
        parser.error(f"--case is {chosen.case!r}, but must be a model and pixels: resnet18/224")
    if chosen.batch < 1:
        parser.error(f"--batch is {chosen.batch}, but must be at least 1")
    return chosen


def main(arguments: Sequence[str]) -> None:
    """Measures all parts and prints their table."""
    chosen = parse(arguments)
    name, _, size = chosen.case.partition("/")
    rows = []
    try:
        spec = ModelSpec(name, _CLASSES, int(size), 3, chosen.width, dtype=chosen.dtype)
        model = models.create(spec)
        peak = peaks.measure(chosen.dtype)
        say("compiling")
        found = parts(model, chosen.batch, int(size))
        found.append(whole_step(model, chosen.batch, int(size), chosen.dtype))
        for part, programs in zip(found, compile_parts(found), strict=True):
            rows += measure(part, programs, chosen, peak)
        if chosen.write:
            kept = measured.keep("step_parts", jax.default_backend(), rows, step_table.KEY)
            measured.publish(PAGE, step_table.table(kept), "step_parts")
    except UserError as e:
        sys.exit(f"step_parts: {e}")
    print("\n".join(step_table.table(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
