"""The pure parts of benchmarks/recover_speed.py: statistics, stored rows, tables, boxes."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import speed_table  # noqa: E402

from delt_jax.errors import UserError  # noqa: E402

THREE = {"median": 2.0, "min": 1.0, "max": 4.0}


def row(case="conv3/32", **changes):
    """A row of the results, 1,500 image-iterations a second."""
    speed = {"median": 1500.0, "min": 1400.4, "max": 1600.6}
    return {
        "case": case,
        "dtype": "float32",
        "stack": 1,
        "batch": 100,
        "allocator": "kept",
        "iterations": 8,
        "passes": 3,
        "schedules": {"full": {"ours": speed, "torch": THREE, "ratio": THREE}},
        "time_of_full": {"ipc50": {"ideal": 0.5775, "ours": THREE, "torch": THREE}},
        "flops": 2e9,
        "bytes": 1e6,
        "peak_flops": 4e12,
        "peak_bytes": 1e10,
        "loss_deviation": 7e-8,
        "torch_layout": "nchw",
        "torch_device": "CPU",
        "torch_version": "2.13",
        "machine": "two cores",
        "date": "2026-11-22",
    } | changes


def test_quotients_are_of_neighbours_in_time():
    # The machine is half as fast from the second pass on; the quotients do not see it.
    assert speed_table.quotients([8, 4, 4], [4, 2, 2]) == {"median": 2, "min": 2, "max": 2}
    assert speed_table.quotients([1, 4, 9], [1, 2, 3]) == {"median": 2, "min": 1, "max": 3}
    with pytest.raises(ValueError, match="shorter"):
        speed_table.quotients([1, 2], [1])


def test_a_run_replaces_only_what_it_measured_again():
    kept = [row(), row("resnet18/224"), row(dtype="bfloat16"), row(allocator="default")]
    merged = speed_table.merge(kept, [row(passes=9)])
    assert merged == [*kept[1:], row(passes=9)]


def test_tables_give_speed_spread_and_share_of_the_peak():
    page = "\n".join(speed_table.tables([row(), row(dtype="bfloat16", stack=4)]))
    speed = "| full | 1,500 (1,400..1,601) | 2 (1..4) | 2.00 (1.00..4.00) | 2.000 | 3,000 | 75% |"
    assert f"| conv3/32 px, batch 100 {speed}" in page
    assert f"| conv3/32 px, batch 100, bfloat16, 4 stacked {speed}" in page
    assert "| EarlyLate, IPC 50 | 0.5775 | 2.000 (1.000..4.000) |" in page
    assert "15% of that" in page  # 1,500 image-iterations of 1 MB against 10 GB/s


def test_the_page_is_filled_between_its_markers_again_and_again():
    page = f"above\n{speed_table.BEGIN}\nold\n{speed_table.END}\nbelow\n"
    once = speed_table.fill(page, ["new", "lines"])
    assert once == f"above\n{speed_table.BEGIN}\nnew\nlines\n{speed_table.END}\nbelow\n"
    assert speed_table.fill(once, ["new", "lines"]) == once
    for damaged in ("none", page.replace(speed_table.END, "")):
        with pytest.raises(UserError, match=r"performance\.md needs"):
            speed_table.fill(damaged, [])


def test_the_page_has_its_markers():
    speed_table.fill((ROOT / "docs" / "performance.md").read_text(), [])


def test_both_sides_compute_the_same_loss():
    """The rival does the same work: crop, flip, teacher, BN terms, and every image moves."""
    torch = pytest.importorskip("torch")
    import torch_recovery
    from speed_sides import Ours, Rival, make_problem

    from delt_jax.models import ModelSpec
    from delt_jax.recipe import RecoverRecipe
    from delt_jax.schedule import make_schedule

    (plan,) = make_schedule(2, 4, 8, 2, 8)
    problem = make_problem(ModelSpec("conv3", 2, 8, 3), 8, RecoverRecipe(iterations=8))
    ours = Ours(problem, 1)
    rival = Rival(problem, torch_recovery.prepare(threads=1), make_schedule(2, 4, 1, 0, 8)[0])
    view = plan.labels, (1, 0, 4, 7), True
    assert ours.loss(*view) == pytest.approx(rival.loss(*view), rel=1e-5)
    groups = rival.prepare(plan)()
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    moved = torch.cat(groups) - torch.tensor(problem.images.transpose(0, 3, 1, 2))
    assert (moved.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_boxes_are_within_the_image_and_as_large_as_asked():
    pytest.importorskip("torch")
    import random

    import torch_recovery

    draw = random.Random(0)
    boxes = [torch_recovery.random_box(draw, 32, 0.5) for _ in range(500)]
    assert all(0 <= top <= 32 - h and 0 <= left <= 32 - w for top, left, h, w in boxes)
    areas = [h * w / 1024 for _, _, h, w in boxes]
    assert 0.45 < min(areas) < 0.55
    assert max(areas) > 0.95
