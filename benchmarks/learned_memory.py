"""Bytes that an outer step of every learned-set method takes, beside what `--dry_run` says.

python benchmarks/learned_memory.py                                      digits, IPC 10
python benchmarks/learned_memory.py --config=fashion_mnist:small --ipc=1

XLA's own count of the compiled step of what is learned, arguments and temporary memory; nothing is
run.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from delt_jax.config import cli, derive, from_config
from delt_jax.core import keys
from delt_jax.learned import methods, program
from delt_jax.learned.method import Learned, Method, Real, Setup
from delt_jax.learned.program import LearnState, SetProgram
from delt_jax.learned.setups import preprocessing_of, setup_of
from delt_jax.runtime import devices
from delt_jax.stages import plan
from delt_jax.stages import run as run_lib


def shapes_of_step(program_of: SetProgram) -> tuple[LearnState, Any, Real]:
    """State, network and real images of a step, as shapes."""
    setup, method = program_of.setup, program_of.method
    side, channels = setup.spec.image_size, setup.spec.channels
    count = setup.num_classes * setup.ipc

    def images(*leading: int) -> Any:
        return jnp.zeros((*leading, side, side, channels))

    def made(key: Any) -> tuple[LearnState, Any, Real]:
        extra = {name: jnp.float32(setup.option(option)) for name, option in method.extra}
        learned = Learned(images(count), jnp.zeros((count, setup.num_classes)), extra)
        network = program.fresh_network(program_of, key)
        if method.walks_on_experts:
            params = network.variables["params"]
            network = network._replace(variables={"params": params, "target": params}, opt_state=())
        pool = jax.tree.map(lambda leaf: jnp.stack([leaf] * method.pool.size), network)
        optimiser = program.init_optimiser(program_of, learned)
        state = LearnState(learned, optimiser, pool, program.begin_average(program_of, learned))
        return state, network, _real(method, setup, images)

    return jax.eval_shape(made, jax.random.key(0))


def _real(method: Method, setup: Setup, images: Any) -> Real:
    leading = (setup.num_classes, setup.real_batch) if method.by_class else (setup.real_batch,)
    labels = jnp.zeros(leading, jnp.int32)
    more = None
    if method.trains_on_real:
        more = (images(setup.more_real), jnp.zeros(setup.more_real, jnp.int32))
    return Real(images(*leading), labels, more)


def counted(program_of: SetProgram) -> int:
    """Arguments and temporary memory of the compiled step, in bytes."""
    shapes = shapes_of_step(program_of)
    step = jax.jit(partial(program.improve, program_of))
    compiled = step.lower(*shapes, keys.stream(0, "learn")).compile()
    found = compiled.memory_analysis()
    assert found is not None, "this backend does not count memory"
    return found.temp_size_in_bytes + found.argument_size_in_bytes


def counted_and_planned(config: str, name: str, ipc: int) -> tuple[int, int]:
    """Bytes that a method's step takes on the data of a recipe, and those that the plan says."""
    joined = f"{config}{',' if ':' in config else ':'}{name},ipc{ipc}"
    arguments = cli.parse(["delt_jax.main", f"--config={joined}", "--workdir=unused"])
    recipe = from_config(arguments.config)
    source = run_lib.open_data(recipe.data, Path("unused"), dry_run=True)
    recipe = derive.complete(recipe, source)[0]
    setup, space = setup_of(recipe, source), preprocessing_of(recipe, source)
    found = counted(SetProgram(methods.find(name), setup, space.normalisation, space.kind))
    return found, plan.memory_of_step(recipe, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", default="configs/digits.py", help="a recipe, without method")
    parser.add_argument("--ipc", type=int, default=10, help="images per class")
    parser.add_argument("--methods", default=",".join(methods.names()), help="some of them")
    asked = parser.parse_args()
    for name in asked.methods.split(","):
        found, planned = counted_and_planned(asked.config, name, asked.ipc)
        ratio = planned / found
        print(f"{name:8} XLA {found / 1e6:8.1f} MB, plan {planned / 1e6:8.1f} MB, {ratio:.2f}")
    print(devices.describe())


if __name__ == "__main__":
    main()
