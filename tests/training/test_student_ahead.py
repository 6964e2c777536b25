"""What is compiled ahead is what training calls."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_student_loop import PROGRAM, PROTOCOL, SPEC, label_plan, train

from delt_jax.labels import compact
from delt_jax.runtime import programs
from delt_jax.teachers import prediction
from delt_jax.training import student_ahead, student_layout, student_step


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("regime", ["online", "fixed", "stored", "hard"])
def test_nothing_is_compiled_again(tmp_path, monkeypatch, regime, on_cpu):
    """A last batch that is smaller, and students on two devices."""
    monkeypatch.setattr(student_layout, "on_cpu", lambda: on_cpu)
    protocol = replace(PROTOCOL, epochs=1, weight_decay=0.03, eval_every=1)
    program = replace(PROGRAM, protocol=protocol, regime=regime, count=8, group_size=3)
    program = replace(program, protocol=replace(protocol, batch_size=3))
    stored = None
    if regime == "online":
        program = replace(program, teachers=(SPEC,))
    if regime == "stored":
        program = replace(program, plan=label_plan(top_k=0, group_size=3))
        labels = compact.Compact(np.ones((8, 3), np.float16), None)

        def stored(epoch):
            return labels

    student_step.init_student(program, jax.random.key(0))  # compiled with the first student
    student_ahead.prepare(student_layout.of(program, 2, 1))

    def never(*_):
        raise AssertionError("compiled in the call")

    with monkeypatch.context() as patch:
        patch.setattr(programs.Program, "_compile", never)
        patch.setattr(prediction, "predict", lambda *_: (np.zeros((12, 3)), None))
        train(tmp_path, program, count=2, stored=stored)
