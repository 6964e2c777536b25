"""What a run compiles ahead of its stages is what they call; nothing where results are there."""

import pytest
from tiny_run import tiny

from delt_jax import main
from delt_jax.runtime import compile_cache, programs
from delt_jax.runtime.programs import Program


@pytest.mark.exhaustive  # as in test_ahead.py and test_student_ahead.py
def test_a_run_prepares_the_programs_that_its_stages_call(tmp_path, monkeypatch):
    asked, called = [], set()
    prepare, call = Program.prepare, Program.__call__

    def noted(program, *arguments):
        asked.append(program)
        prepare(program, *arguments)

    def noted_call(program, *arguments):
        called.add(program)
        return call(program, *arguments)

    compile_cache.free()
    monkeypatch.setattr(programs, "in_background", lambda begin: begin())
    monkeypatch.setattr(Program, "prepare", noted)
    monkeypatch.setattr(Program, "__call__", noted_call)
    main.run(tiny(), str(tmp_path / "run"), ["squeeze", "rank", "recover"])
    recovery = set(asked)
    assert recovery
    assert recovery <= called
    asked.clear()
    main.run(tiny(), str(tmp_path / "run"))
    students = set(asked)
    assert students - recovery
    assert students <= called
    asked.clear()
    main.run(tiny(), str(tmp_path / "run"))
    assert not asked
