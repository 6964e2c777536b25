"""Times settings of the C library's allocator: a recovery step, and eight threads that compile.

python benchmarks/allocator.py                              every setting, in turns
python benchmarks/allocator.py --settings="default;commands" --rounds=5

Each measurement is a process of its own. The step is loss and gradient of ConvNet-3 on 32 px, batch
100; the threads compile eight different small programs at once. "commands" is what the commands
choose on this machine. Settings that the loader reads (another allocator, glibc's tunables) are
given in the environment of the process. Where the machine has other work, look at CPU seconds, page
faults and waits (times that a thread gave up its core while programs were compiled).
"""

import argparse
import ctypes
import ctypes.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from delt_jax.runtime import host_memory

THREADS = 8
# mallopt's numbers, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
KEPT = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1))
PADDED = (*KEPT, (TOP_PAD, 256 << 20))
SETTINGS: dict[str, tuple[tuple[int, int], ...]] = {
    "default": (),
    "kept": KEPT,
    "kept, padded": PADDED,
    "kept, arena per core": (*KEPT, (ARENA_MAX, os.cpu_count() or 1)),
    "kept, two arenas": (*KEPT, (ARENA_MAX, 2)),
    "kept, one arena": (*KEPT, (ARENA_MAX, 1)),
    "kept, one arena, more cached": (*KEPT, (ARENA_MAX, 1)),
    "huge pages": (),
    "kept, padded, huge pages": PADDED,
    "kept, one arena, huge pages": (*KEPT, (ARENA_MAX, 1)),
}
TUNABLES = {
    "kept, one arena, more cached": "glibc.malloc.tcache_count=2000",
    "huge pages": "glibc.malloc.hugetlb=1",
    "kept, padded, huge pages": "glibc.malloc.hugetlb=1",
    "kept, one arena, huge pages": "glibc.malloc.hugetlb=1",
}
LIBRARIES = {  # with what makes them keep what is freed
    "jemalloc": {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
    "mimalloc": {"MIMALLOC_PURGE_DELAY": "-1"},
    "tcmalloc": {"TCMALLOC_RELEASE_RATE": "0"},
}


def names() -> list[str]:
    """All settings that this system can try."""
    found = [name for name in LIBRARIES if ctypes.util.find_library(name)]
    return [*SETTINGS, *found, "commands"]


def variables(setting: str) -> dict[str, str]:
    """What the environment of a process holds for a setting."""
    if setting in LIBRARIES:
        return {"LD_PRELOAD": str(ctypes.util.find_library(setting)), **LIBRARIES[setting]}
    if setting == "commands":
        return {}
    return {"GLIBC_TUNABLES": TUNABLES.get(setting, "")}


def take(setting: str) -> None:
    """Makes a setting in this process, before its threads start."""
    if setting == "commands":
        host_memory.restart_with_huge_pages()
        host_memory.keep_freed()
    for pair in SETTINGS.get(setting, ()):
        if not ctypes.CDLL(None).mallopt(*pair):
            raise SystemExit("allocator: this C library has no such setting.")


def step_of(batch: int) -> Callable[[], None]:
    """Loss and gradient of recovery by ConvNet-3 on 32 px, compiled."""
    import functools

    import jax
    import jax.numpy as jnp

    from delt_jax import models
    from delt_jax.augment import crop
    from delt_jax.models import ModelSpec
    from delt_jax.models.tap import TappedNetwork
    from delt_jax.recipe import RecoverRecipe
    from delt_jax.recovery import step
    from delt_jax.recovery.program import step_settings

    model = models.create(ModelSpec("conv3", 10, 32, 3))
    images = jax.random.normal(jax.random.key(0), (batch, 32, 32, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images[:1])
    labels, settings = jnp.arange(batch) % 10, step_settings(RecoverRecipe(), flip=True)
    view = crop.View(jnp.array([2, 3, 25, 27]), jnp.array(True), jnp.zeros(2, jnp.int32))

    @jax.jit
    def gradient(variables, images):
        def loss(images):
            teacher = TappedNetwork(model, variables)
            return step.loss(images, labels, view, teacher, settings)[0]

        return jax.value_and_grad(loss)(images)

    return lambda: jax.block_until_ready(gradient(variables, images))


def compile_at_once() -> float:
    """Seconds in which so many threads compile a program each, side by side."""
    import jax
    import jax.numpy as jnp

    def program(width: int):
        def apply(kernels, images):
            for kernel in kernels:
                images = jax.lax.conv_general_dilated(
                    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                images = jax.nn.relu(images - images.mean((0, 1, 2)))
            return jnp.square(images).sum()

        shapes = [(3, 3, 3, width), (3, 3, width, width), (3, 3, width, width)]
        kernels = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        images = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
        return jax.jit(jax.grad(apply)).lower(kernels, images)

    lowered = [program(8 + i) for i in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        started = time.perf_counter()
        list(threads.map(lambda each: each.compile(), lowered))
        return time.perf_counter() - started


def measure(setting: str, batch: int, steps: int) -> dict[str, float]:
    """Times a setting in this process, which must be new."""
    take(setting)
    run = step_of(batch)
    for _ in range(3):
        run()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    between = resource.getrusage(resource.RUSAGE_SELF)
    compiling = compile_at_once()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "step": statistics.median(seconds),
        "step_cpu": _cpu(before, between) / steps,
        "faults": (between.ru_minflt - before.ru_minflt) / steps,
        "compile": compiling,
        "compile_cpu": _cpu(between, after),
        "waits": after.ru_nvcsw - between.ru_nvcsw,
        "megabytes": after.ru_maxrss / 1024,
    }


def _cpu(before: resource.struct_rusage, after: resource.struct_rusage) -> float:
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def asked(setting: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Times a setting in a new process."""
    flags = [f"--only={setting}", f"--batch={chosen.batch}", f"--steps={chosen.steps}"]
    environ = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"} | variables(setting)
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), *flags], env=environ, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"allocator: {setting} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Markdown: medians over the rounds, smallest and largest in brackets."""
    from measured import spread, summary

    lines = [
        f"| setting | step, ms | its CPU, ms | its page faults | {THREADS} threads compiling, s "
        "| their CPU, s | their waits | peak, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    forms = {  # factor and digits
        "step": (1000, 0),
        "step_cpu": (1000, 0),
        "faults": (1, 0),
        "compile": (1, 2),
        "compile_cpu": (1, 2),
        "waits": (1, 0),
        "megabytes": (1, 0),
    }
    for setting, rounds in results.items():
        cells = [
            spread(summary([factor * found[key] for found in rounds]), digits)
            for key, (factor, digits) in forms.items()
        ]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--settings", default=";".join(names()), help="some of them, with semicolons between")
    add("--rounds", type=int, default=3, help="processes of each setting")
    add("--batch", type=int, default=100, help="images of the step")
    add("--steps", type=int, default=20, help="timed in each process")
    add("--only", help="measure this setting in this process, and print it as JSON")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only, chosen.batch, chosen.steps)))
        return
    settings = chosen.settings.split(";")
    unknown = [name for name in settings if name not in names()]
    if unknown:
        parser.error(f"there is no setting {unknown[0]!r}; there are {'; '.join(names())}")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for turn in range(chosen.rounds):
        for name in settings:
            results[name].append(asked(name, chosen))
            print(f"{turn + 1}. {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    print("\n".join(table(results)))
    from delt_jax.runtime import devices  # last, because it starts JAX

    print(f"- {chosen.rounds} rounds; {devices.describe()}, {date.today().isoformat()}.")


if __name__ == "__main__":
    main()
