"""Stages and programs of a run are read from what it prints; settings of allocators are tried."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import allocator
import cold_start
from cold_start import Compilation, Line, Run

LOG = "WARNING:2026-11-26 15:00:00,000:jax._src.dispatch:214: Finished "


def compiled(at, name, seconds):
    return Line(at, f"{LOG}XLA compilation of {name} in {seconds:.9f} sec")


RUN = Run(
    out=[
        Line(2.0, "squeeze: nothing made yet"),
        Line(2.5, "  recover: no stage"),
        Line(9.0, "recover: ok"),
        Line(11.0, "recover: of the same stage"),
    ],
    errors=[
        compiled(4.0, "pmap(step)", 1.5),
        Line(4.5, f"{LOG}tracing + transforming step for pmap in 0.250000000 sec"),
        Line(4.6, f"{LOG}jaxpr to MLIR module conversion jit(step) in 0.125 sec"),
        compiled(8.0, "pmap(next)", 3.0),
        compiled(9.5, "pmap(ahead)", 4.0),  # begun in the stage before
        compiled(9.6, "jit(small)", 0.1),
        Line(9.7, "an unrelated line in 3 sec"),
    ],
    seconds=12.0,
)


def test_a_run_is_cut_into_stages_with_their_programs():
    start, squeeze, recover, whole = cold_start.parts(RUN)
    assert [part.name for part in (start, squeeze, recover, whole)] == [
        *("start", "squeeze", "recover", "all")
    ]
    assert [part.seconds for part in (start, squeeze, recover, whole)] == [2, 7, 3, 12]
    assert [c.name for c in squeeze.programs] == ["pmap(step)", "pmap(next)"]
    assert recover.programs == (Compilation("pmap(ahead)", 4.0, 9.5),)
    assert squeeze.compiling == pytest.approx(1.5 + 4.0)  # 5.0 to 9.0, by two threads for a while
    assert recover.compiling == pytest.approx(0.6)
    assert whole.compiling == pytest.approx(1.5 + 4.6)
    assert (squeeze.tracing, recover.tracing) == (0.375, 0)


def test_the_table_has_a_line_per_stage_and_ratios_beside_another_checkout():
    parts = cold_start.parts(RUN)
    half = [part._replace(seconds=part.seconds / 2, programs=()) for part in parts]
    runs = [("cold", half), ("beside, cold", parts)]
    lines = cold_start.table(runs)
    assert len(lines) == 2 + 8
    assert "| beside, cold | squeeze | 7.0 | 2 | 4.5 | 5.5 | 0.4 |" in lines
    assert cold_start.ratios(runs) == [
        "- cold: 0.50 of the time beside it; 0 programs, 3 beside it."
    ]
    assert cold_start.largest("cold", parts[-1]) == (
        "- cold: pmap(ahead) 4.0 s, pmap(next) 3.0 s, pmap(step) 1.5 s."
    )


def test_overlapping_spans_count_once():
    assert cold_start.busy([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == 4
    assert cold_start.busy([]) == 0


def test_settings_of_the_allocator_are_for_one_process(monkeypatch):
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    assert {"default", "jemalloc", "commands"} < set(allocator.names())
    assert allocator.variables("default") == {"GLIBC_TUNABLES": ""}
    assert allocator.variables("huge pages") == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert allocator.variables("jemalloc")["LD_PRELOAD"] == "libjemalloc.so"
    assert allocator.variables("commands") == {}  # they choose for themselves
    found = {
        **{key: 0.5 for key in ("step", "step_cpu", "compile", "compile_cpu")},
        **{key: 7 for key in ("faults", "waits", "megabytes")},
    }
    (line,) = allocator.table({"default": [found, found]})[2:]
    assert line.startswith("| default | 500 (500..500) | 500 (500..500) | 7 (7..7) | 0.50 ")
