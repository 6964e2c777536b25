"""Programs: compiled once, ahead or in the call, for the shapes that they are called with."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax.core.progress import progress
from delt_jax.runtime import programs
from delt_jax.runtime.programs import Program, in_background


def counted(compilations):
    """A program that doubles, and notes the thread of each compilation."""

    def double(x):
        compilations.append(threading.current_thread().name)
        return 2 * x

    return Program(jax.jit(double))


def test_a_program_is_compiled_once_and_ahead_where_it_was_prepared():
    traced = []
    program = counted(traced)
    program.prepare(jax.ShapeDtypeStruct((3,), jnp.float32))
    program._future.result()
    for _ in range(2):
        np.testing.assert_array_equal(program(jnp.ones(3)), [2, 2, 2])
    assert len(traced) == 1
    assert traced[0].startswith("compile")
    program.free()
    program(jnp.ones(3))
    assert traced[1:] in ([], ["MainThread"])  # the trace may be cached


@pytest.mark.parametrize("fault", ["other shapes", "an error", "cancelled"])
def test_what_was_prepared_in_vain_is_compiled_in_the_call(monkeypatch, fault):
    program = Program(jax.jit(lambda x: x + 1))
    if fault == "an error":
        with monkeypatch.context() as patch:
            patch.setattr(Program, "_compile", lambda *_: 1 / 0)
            program.prepare(jax.ShapeDtypeStruct((3,), jnp.float32))
            assert isinstance(program._future.exception(), ZeroDivisionError)
    elif fault == "other shapes":
        program.prepare(jax.ShapeDtypeStruct((4,), jnp.float32))
    else:
        held = threading.Event()
        for _ in range(8):
            in_background(held.wait)
        program.prepare(jax.ShapeDtypeStruct((3,), jnp.float32))
        programs.cancel()
        held.set()
    np.testing.assert_array_equal(program(jnp.ones(3)), [2, 2, 2])


def test_a_failure_in_the_call_is_not_waited_for_later(monkeypatch):
    program = Program(jax.jit(lambda x: x + 1))
    with monkeypatch.context() as patch:
        patch.setattr(Program, "_compile", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            program(jnp.ones(3))
    np.testing.assert_array_equal(program(jnp.ones(3)), [2, 2, 2])


def test_the_bar_says_that_it_waits_and_does_not_count_it(capsys, monkeypatch):
    program = Program(jax.jit(lambda x: x + 1))
    with progress(10, "recover", "image") as bar:
        started = bar._started
        program(jnp.ones(3))
        assert bar._started > started
    assert "recover   0%  compiling" in capsys.readouterr().err
