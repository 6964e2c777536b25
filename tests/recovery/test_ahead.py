"""Programs compiled ahead: exactly those that the recovery calls, for what it gives them."""

import dataclasses
import shutil

import jax
from tiny_run import manifest, recovered, tiny

from delt_jax import config as config_lib
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import ahead, execution, memory
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.schedule import make_schedule
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program
from delt_jax.stages import recover
from delt_jax.store import files
from delt_jax.teachers import teacher as teacher_lib


def test_what_is_prepared_before_the_teacher_is_what_recovery_needs(
    tiny_ranked, tmp_path, monkeypatch
):
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    monkeypatch.setattr(execution.sizes_lib, "price", lambda *_: execution.sizes_lib.Price(9, 1))
    recipe = config_lib.from_config(tiny(**{"recover.residual": 0.3}))
    settings = step_settings(recipe.recover, recipe.data.flip)
    spec, schedule = teacher_lib.load(folder / "teacher").spec, recover.schedule_of(recipe, 10)
    outline = Outline(settings, (spec,), schedule)
    asked, real = [], Program.prepare

    def noted(program, *arguments):
        asked.append((program, jax.tree.map(lambda x: (x.shape, str(x.dtype)), arguments)))
        real(program, *arguments)

    monkeypatch.setattr(Program, "prepare", noted)
    plan = execution.choose(recipe.recover, outline)
    ahead.prepare(outline, plan)
    before, asked[:] = list(asked), []
    recovered(folder, **{"recover.residual": 0.3})
    assert manifest(folder)["execution"]["sizes"] == list(plan.sizes)
    assert len(before) > 1
    # Asked for once more at most: by the run itself, ahead of its stages.
    assert {id(x[0]): x[1] for x in asked} == {id(x[0]): x[1] for x in before}


def test_nothing_is_prepared_where_constants_are_unknown(monkeypatch):
    monkeypatch.setattr(Program, "prepare", None)
    settings = step_settings(config_lib.from_config(tiny()).recover, flip=False)
    settings = dataclasses.replace(settings, terms=(("barycentre", 1.0),))
    ahead.prepare(Outline(settings, (), make_schedule(2, 2, 4, 2, 4)), ExecutionPlan("", 1, 1))


def test_a_plan_of_an_older_version_goes_on_with_exact_programs(tmp_path):
    old = {"dtype": "float32", "batches_per_device": 1, "chunk_steps": 1}
    files.write_json(tmp_path / "execution.json", old)
    assert execution.read(tmp_path) == ExecutionPlan("float32", 1, 1, ())
    plan = ExecutionPlan("float32", 1, 1, (3, 6))
    execution.write(tmp_path, plan)
    assert execution.read(tmp_path) == plan
    files.write_json(tmp_path / "execution.json", old | {"sizes": ["6"]})
    assert execution.read(tmp_path) is None


def test_memory_is_that_of_the_largest_masked_program(monkeypatch):
    seen = []
    monkeypatch.setattr(memory, "of_chunk", lambda program, *_: seen.append(program) or 1)
    settings = step_settings(config_lib.from_config(tiny()).recover, flip=False)
    schedule = make_schedule(2, 4, 4, 2, 8, class_iterations=(2, 4))
    spec = teacher_lib.ModelSpec("conv3", 2, 8, 1, width=8)
    for sizes in ((), (8,)):
        memory.peak_bytes(settings, [spec], schedule, sizes=sizes)
    most = max(len(r.active) for r in schedule[0].rounds)
    assert [(p.active, p.masked) for p in seen] == [(most, False), (8, True)]
    assert most < 8
