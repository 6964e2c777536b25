"""What the judging of replays accepts, and kinds of recordings that are not there yet."""

import json

import judging
import numpy as np
import pytest
import replays
import test_golden
from judging import Off


def verdict(recorded, replays_of):
    """Whether a recording [steps] is accepted, for replays by dtype and seed, each [steps]."""

    def off(ours, theirs):
        return Off(np.abs(np.asarray(ours) - theirs) / 1e-3)

    try:
        judging.assert_agrees(np.asarray(recorded), lambda *which: replays_of(*which), off)
    except AssertionError:
        return False
    return True


RIGHT = np.ones(4)
LATE = np.array([0.0, 0, 1e-2, 1e-2])  # far beyond the tolerance, once something has tipped


@pytest.mark.parametrize(
    ("recorded", "float32", "float64", "accepted"),
    [
        (RIGHT, RIGHT, None, True),
        (RIGHT, RIGHT + LATE, RIGHT, True),  # ours has tipped
        (RIGHT + LATE, RIGHT + LATE, RIGHT, True),  # the recording has, as others do
        (RIGHT + LATE, RIGHT, RIGHT, False),  # nothing tips, so the formula is another
        (RIGHT + 4 * LATE, RIGHT + LATE, RIGHT, False),  # more than rounding does
        (RIGHT + 1e-2, RIGHT, RIGHT, False),  # nothing can have tipped in the first step
        (RIGHT, RIGHT + 1e-2, RIGHT, False),
        (RIGHT, RIGHT + LATE, RIGHT + 1e-2, False),
    ],
)
def test_rounding_excuses_what_it_explains(recorded, float32, float64, accepted):
    def replay(dtype, seed):
        return float64 if dtype == "float64" else float32

    assert verdict(recorded, replay) == accepted


@pytest.mark.parametrize(("fails", "ran"), [("", 1), ("float32", 2), ("float32 float64", 2)])
def test_of_a_single_step_float64_decides(fails, ran):
    dtypes = []

    def check(dtype):
        dtypes.append(dtype)
        assert dtype not in fails

    if "float64" in fails:
        with pytest.raises(AssertionError):
            judging.assert_decided(check)
    else:
        judging.assert_decided(check)
    assert dtypes == ["float32", "float64"][:ran]


def test_a_few_pixels_may_tip_and_more_may_not():
    fine = np.ones(3)
    for moved, accepted in ((0.02, True), (0.2, False)):
        deviations = {"float32": Off(fine, 0.5), "float64": Off(fine, moved)}
        found = []

        def off(ours, theirs, deviations=deviations, found=found):
            found.append((ours, theirs))
            return deviations["float64" if "recorded" in (ours,) else "float32"]

        def replay(dtype, seed):
            return dtype

        if accepted:
            judging.assert_agrees("recorded", replay, off)
            assert found == [("float32", "recorded"), ("recorded", "float64")]
            continue
        deviations["float32"] = Off(fine, 0.05)  # what float32 does by itself
        with pytest.raises(AssertionError, match=r"20.0% of the pixels"):
            judging.assert_agrees("recorded", replay, off)


def write(folder, name, record, **arrays):
    """Writes a recording; returns the path of its JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def small_zoo(tmp_path, monkeypatch):
    """A folder of recordings whose ConvNet has seven classes of images of 16 px."""
    shapes = {"classifier.weight": [7, 128 * 2 * 2], "classifier.bias": [7]}
    for depth in range(3):
        shapes[f"layers.conv.{depth}.weight"] = [128, 128 if depth else 3, 3, 3]
        shapes[f"layers.conv.{depth}.bias"] = [128]
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"layers.norm.{depth}.{leaf}"] = [128]
    listing = [[i, name, shape] for i, (name, shape) in enumerate(shapes.items())]
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/conv3.state_dict.json").write_text(json.dumps(listing))
    monkeypatch.setenv("DELT_GOLDEN_DIR", str(tmp_path))
    return tmp_path


# The second class's budget is half; the list has budgets of classes that the batch lacks.
BY_CLASS = [2, 2, 2, 2, 2, 4, 8]
LABELS = {"whole": [6, 6, 6, 5, 5, 5], "cut": [6, 6, 5, 5, 5]}
# Four rounds for class 6, of whose three images one joins in each of the first; two for class 5,
# of which two join at once. Cut, class 6 has lost its first image to the batch before.
ACTIVE = {"whole": [3, 3, 5, 5, 3, 3, 3, 3], "cut": [2, 2, 4, 4, 2, 2, 2, 2]}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("listed", ["by class", "by batch"])
def test_budgets_of_more_classes_and_labels_from_anywhere(kind, listed):
    labels = np.array(LABELS[kind])
    budgets = BY_CLASS if listed == "by class" else [8, 4]
    record = {"class_iterations": budgets, "ipc": 3, "iterations": 8, "round_iterations": 2}
    recording = replays.Recording(record | {"early_late": True}, {"labels": labels})
    batch = replays.schedule_of(recording)
    active = [len(r.active) for r in batch.rounds for _ in range(r.iterations)]
    assert active == ACTIVE[kind]
    assert replays.budgets(recording).tolist() == [8 if c == 6 else 4 for c in labels]
    assert sorted(batch.indices) == list(range(len(labels)))


def recovery_record(draw, antialias):
    """Settings and random views of eight steps."""
    steps = []
    for _ in range(8):
        side = int(draw.integers(8, 17))
        corner = draw.integers(0, 17 - side, 2).tolist()
        view = {"crop": [*corner, side, side], "flip": bool(draw.integers(2)), "roll": [1, 0]}
        steps.append(view | {"antialias": antialias})
    return {
        "teacher": {"arch": "conv3", "seeded": 3},
        "ipc": 3,
        "iterations": 8,
        "round_iterations": 2,
        "learning_rate": 0.1,
        "bn_weight": 0.01,
        "first_bn_multiplier": 10.0,
        "jitter": 2,
        "milestone": 0.5,
        "easy2hard": "linear",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "class_iterations": BY_CLASS,
        "early_late": True,
        "steps": steps,
    }


@pytest.mark.exhaustive  # trainings of such are below
def test_recoveries_of_other_sizes_and_classes(small_zoo):
    """Recorded here in float64, and replayed in float32; views are resized without antialiasing."""
    draw = np.random.default_rng(0)
    record = recovery_record(draw, antialias=False)
    labels, mean, std = np.array(LABELS["whole"]), *(np.array(record[k]) for k in ("mean", "std"))
    init = (draw.random((6, 16, 16, 3)) - mean) / std
    arrays = {"labels": labels, "init": np.float32(init).transpose(0, 3, 1, 2)}
    steps = replays.recover(replays.case_of(replays.Recording(record, arrays)), "float64")
    for recorded, step, active in zip(record["steps"], steps, ACTIVE["whole"], strict=True):
        ours = {"loss": step.losses.loss, "cross_entropy": step.losses.cross_entropy}
        ours |= {"learning_rate": step.rate[0]}
        recorded |= {name: float(value) for name, value in ours.items()}
        recorded |= {"bn_terms": step.terms.tolist(), "scale": [float(step.scale[0]), 1.0]}
        recorded["batch"] = active
    final = (steps[-1].images * std + mean).transpose(0, 3, 1, 2)
    path = write(small_zoo / "recover", "other", record, **arrays, final=final)
    test_golden.check_recovery(path)


def test_trainings_of_other_sizes_and_classes(small_zoo):
    draw = np.random.default_rng(1)
    steps = [
        {"permutation": draw.permutation(5).tolist(), "learning_rate": rate, "lambda": 0.3}
        for rate in (1e-3, 5e-4)
    ]
    record = {"arch": "conv3", "student_seed": 1, "teacher_seed": 2, "temperature": 2.0}
    record |= {"mix": "mixup", "weight_decay": 0.1, "epochs": 2, "steps": steps}
    images = np.float32(draw.standard_normal((5, 3, 16, 16)))
    recording = replays.Recording(record, {"images": images})
    ours = replays.train(recording, replays.student_and_teacher(recording), "float64")
    assert ours.logits.shape == (5, 7)
    for step, loss in zip(steps, ours.losses, strict=True):
        step["loss"] = float(loss)
    arrays = {"images": images, "final_eval_logits": ours.logits, **ours.variances}
    test_golden.check_training(write(small_zoo / "train", "other", record, **arrays))
