"""Recovery in this process: how it runs, what it keeps, and what stops it."""

import shutil

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_run import manifest, recovered, stop_after, tiny

from delt_jax import config as config_lib
from delt_jax import main, models
from delt_jax.core.stopping import Stopped
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery.program import StepProgram, step_settings
from delt_jax.recovery.run import checkpoint, driver, execution, memory
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.schedule import make_schedule
from delt_jax.recovery.types import TeacherVariables
from delt_jax.runtime import devices
from delt_jax.stages import plan, recover
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib


@pytest.fixture(scope="module")
def whole(tiny_ranked, tmp_path_factory):
    """A finished recovery: five batches of six images in two rounds of two."""
    folder = shutil.copytree(tiny_ranked, tmp_path_factory.mktemp("driver") / "run")
    main.run(tiny(), str(folder), ["recover"])
    return folder


@pytest.fixture
def begun(whole, tmp_path):
    """The same with the recovery still to do."""
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "distilled")
    return folder


# Resuming


@pytest.mark.parametrize(("before", "after"), [(8, 3), (1, 8)])
def test_terminated_in_a_batch_and_gone_on_with_elsewhere(
    whole, begun, monkeypatch, capsys, before, after
):
    monkeypatch.setattr(devices, "device_count", lambda: before)
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            recovered(begun)
    assert len(list((begun / "distilled.partial").glob("state_*"))) == min(before, 5)
    monkeypatch.setattr(devices, "device_count", lambda: after)
    calls = stop_after(monkeypatch, 10**6)
    images = recovered(begun)
    assert "0 of 5 batches are done" in capsys.readouterr().out
    # One iteration is left in each of two groups; or in one, and four batches have not begun.
    assert len(calls) == {8: 2, 1: 5}[before]
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)
    for name in ("loss", "cross_entropy", "bn"):
        with (
            np.load(whole / "distilled/losses.npz") as old,
            np.load(begun / "distilled/losses.npz") as new,
        ):
            chex.assert_trees_all_equal(new[name], old[name])


def test_a_signal_in_the_last_call_is_obeyed_and_nothing_is_lost(whole, begun, monkeypatch):
    with monkeypatch.context() as m:
        stop_after(m, 4)  # the calls that the whole recovery takes
        with pytest.raises(Stopped):
            recovered(begun)
    assert len(list((begun / "distilled.partial").glob("batch_*"))) == 5
    monkeypatch.setattr(driver, "compile_chunk", None)  # nothing is left to compute
    images = recovered(begun)
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)


def test_round_ends_are_kept(whole, begun, monkeypatch):
    monkeypatch.setattr(driver, "SECONDS_BETWEEN_SAVES", 0)
    with monkeypatch.context() as m:
        stop_after(m, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            recovered(begun)
    partial = begun / "distilled.partial"
    assert [checkpoint.step_of(partial, i) for i in range(5)] == [2] * 5
    calls = stop_after(monkeypatch, 10**6)
    images = recovered(begun)
    assert len(calls) == 2
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_state_is_dropped_with_a_sentence(whole, begun, monkeypatch, capsys, damage):
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            recovered(begun)
    arrays = (begun / "distilled.partial/state_000002/arrays").rglob("*")
    path = max((p for p in arrays if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    images = recovered(begun)
    out = capsys.readouterr().out
    assert "state_000002 is damaged; its batch starts anew" in out
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)


def test_other_settings_drop_what_was_kept(begun, monkeypatch):
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            recovered(begun)
    calls = stop_after(monkeypatch, 10**6)
    recovered(begun, **{"recover.learning_rate": 0.1})
    assert len(calls) == 4


def test_a_full_disk_is_a_sentence_and_leaves_finished_work(whole, begun, monkeypatch):
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    monkeypatch.setattr(driver, "SECONDS_BETWEEN_SAVES", 0)
    real, saved = ocp.Checkpointer.save, []

    def full(checkpointer, path, tree):
        saved.append(path)
        if len(saved) > 3:  # of the second two batches
            raise OSError(28, "No space left on device")
        real(checkpointer, path, tree)

    with monkeypatch.context() as m:
        m.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(UserError, match="No space left on device; free the disk"):
            recovered(begun)
    assert not list(begun.rglob(".*.tmp"))
    assert checkpoint.finished_batch(begun / "distilled.partial", 0).exists()
    chex.assert_trees_all_equal(recovered(begun), distilled.read(whole / "distilled").images)


# How it runs


def test_stacked_recovery_is_recorded_and_kept_over_a_resume(begun, monkeypatch, capsys):
    changes = {"recover.batches_per_device": 2}
    monkeypatch.setattr(devices, "device_count", lambda: 2)
    images = recovered(begun, **changes)
    assert manifest(begun)["execution"] == {
        "dtype": "float32",
        "batches_per_device": [2],
        "chunk_steps": 1,
        "sizes": [6],
    }
    shutil.rmtree(begun / "distilled")
    with monkeypatch.context() as m:
        stop_after(m, 1)
        with pytest.raises(Stopped):
            recovered(begun, **changes)
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    chex.assert_trees_all_equal(recovered(begun), images)  # the setting is no longer asked for
    assert manifest(begun)["execution"]["batches_per_device"] == [2]


def test_out_of_memory_halves_the_batches(whole, begun, monkeypatch, capsys):
    real = driver.compile_chunk

    def too_small(program, num_devices, batches_per_device, batch_size):
        if batches_per_device > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return real(program, num_devices, batches_per_device, batch_size)

    monkeypatch.setattr(driver, "compile_chunk", too_small)
    images = recovered(begun, **{"recover.batches_per_device": 4})
    out = capsys.readouterr().out
    assert "out of device memory with 4 batches per device; goes on with 2" in out
    assert "out of device memory with 2 batches per device; goes on with 1" in out
    assert manifest(begun)["execution"]["batches_per_device"] == [1]
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)


def test_a_batch_that_is_too_large_and_other_errors(begun, monkeypatch):
    def fails(words):
        def compiled(*arguments):
            raise jax.errors.JaxRuntimeError(words)

        return compiled

    monkeypatch.setattr(driver, "compile_chunk", fails("RESOURCE_EXHAUSTED: Out of memory"))
    with pytest.raises(UserError, match=r"too small for one batch; lower recover\.batch_size"):
        recovered(begun)
    monkeypatch.setattr(driver, "compile_chunk", fails("INTERNAL: no"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        recovered(begun)


def test_bfloat16_is_checked_used_and_recorded(whole, begun, monkeypatch, capsys):
    images = recovered(begun, **{"recover.dtype": "bfloat16"})
    assert manifest(begun)["execution"]["dtype"] == "bfloat16"
    reference = distilled.read(whole / "distilled").images
    assert (images != reference).any()
    assert np.abs(images.astype(int) - reference).mean() < 3
    with (
        np.load(whole / "distilled/losses.npz") as wide,
        np.load(begun / "distilled/losses.npz") as narrow,
    ):
        assert narrow["loss"].dtype == np.float32
        chex.assert_trees_all_close(narrow["loss"], wide["loss"], rtol=0.05)
    shutil.rmtree(begun / "distilled")
    monkeypatch.setattr(execution, "TOLERANCE", 0.0)
    images = recovered(begun, **{"recover.dtype": "bfloat16"})
    assert "float32 is used" in capsys.readouterr().out
    assert manifest(begun)["execution"]["dtype"] == "float32"
    chex.assert_trees_all_equal(images, reference)


def test_float32_sets_of_before_are_not_made_again(whole):
    settings = config_lib.from_config(tiny())
    source, workdir = open_source(settings.data), WorkDir(whole)
    stage_inputs = recover.inputs(settings, source, workdir)
    assert not [k for k in stage_inputs if "save_minutes" in k]
    before = {k: v for k, v in stage_inputs.items() if "dtype" not in k}
    assert changes(before, stage_inputs) == []
    narrow = config_lib.from_config(tiny(**{"recover.dtype": "bfloat16"}))
    assert recover.inputs(narrow, source, workdir)["recover.dtype"] == "bfloat16"


def test_a_profile_on_request(begun, capsys):
    recovered(begun, **{"recover.profile_chunks": 2})
    assert list((begun / "profile").rglob("*.xplane.pb"))
    assert f"profile: {begun / 'profile'}" in capsys.readouterr().out


# Memory


SPEC = ModelSpec("conv3", 10, 8, 1, width=8)
BATCHES = make_schedule(10, 40, 4, 2, 50)


SETTINGS = step_settings(RecoverRecipe(), flip=True)


def test_memory_grows_with_active_images_and_batches():
    teacher, model = TeacherVariables(teacher_lib.init_shapes(SPEC)), models.create(SPEC)
    half, one, two = (
        memory.of_chunk(StepProgram((model,), SETTINGS, active), SPEC, teacher, 20, batches)
        for active, batches in ((10, 1), (20, 1), (20, 2))
    )
    assert 4 * 5 * 20 * 8 * 8 < half < one < two < 2.1 * one


def test_the_batches_follow_the_devices_memory(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    largest = memory.largest(BATCHES)
    assert len(largest.indices) == len(largest.rounds[-1].active) == 50
    monkeypatch.setattr(memory, "of_chunk", lambda *a: 100 + 10 * a[-1])
    for limit, most in ((None, 1), (140, 1), (141.2, 2), (170, 4), (10**6, 8)):
        monkeypatch.setattr(devices, "memory_limit", lambda limit=limit: limit)
        peaks = memory.peak_bytes(SETTINGS, [SPEC], BATCHES)
        assert max(peaks) == most, limit
        assert peaks == {n: 100 + 10 * n for n in peaks}
    monkeypatch.setattr(jax, "device_count", lambda: 4)  # two batches for each
    assert max(memory.peak_bytes(SETTINGS, [SPEC], BATCHES)) == 2
    line = plan.memory_line(config_lib.from_config(tiny()), [SPEC], BATCHES)
    assert line.endswith("about 110 B with 1, 120 B with 2 batch(es) at once; 2 will be used")


def test_choices_of_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: {1: 1, 2: 2, 4: 4})
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def chosen(**changes):
        recipe = RecoverRecipe(**changes)
        return execution.choose(recipe, Outline(SETTINGS, (SPEC,), BATCHES))

    assert chosen() == execution.ExecutionPlan("float32", 4, 50, (50,))
    asked = chosen(dtype="bfloat16", batches_per_device=3, chunk_steps=7)
    assert asked == execution.ExecutionPlan("bfloat16", 3, 7, (50,))
    monkeypatch.setattr(jax, "device_count", lambda: len(BATCHES))
    assert chosen().batches_per_device == 1  # each device has one batch
