"""The benchmarks: what they import, statistics, tables, and that rivals do the same work."""

import ast
import contextlib
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measured
import speed_table
import train_table

from delt_jax.errors import UserError

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
    assert measured.quotients([8, 4, 4], [4, 2, 2]) == {"median": 2, "min": 2, "max": 2}
    assert measured.quotients([1, 4, 9], [1, 2, 3]) == {"median": 2, "min": 1, "max": 3}
    with pytest.raises(ValueError, match="shorter"):
        measured.quotients([1, 2], [1])


def test_a_run_replaces_only_what_it_measured_again():
    kept = [row(), row("resnet18/224"), row(dtype="bfloat16"), row(allocator="default")]
    merged = measured.merge(kept, [row(passes=9)], speed_table.KEY)
    assert merged == [*kept[1:], row(passes=9)]


def test_tables_give_speed_spread_and_share_of_the_peak():
    page = "\n".join(speed_table.tables([row(), row(dtype="bfloat16", stack=4)]))
    both = "| full | 1,500 (1,400..1,601) | 2 (1..4) | 2.00 (1.00..4.00) |"
    # 1,500 image-iterations of 1 MB against 10 GB/s
    achieved = "| 2.000 | 3,000 | 75% | 2 | 15% |"
    assert f"| conv3/32 px, batch 100 {both} - | - {achieved}" in page
    assert f"| conv3/32 px, batch 100, bfloat16, 4 stacked {both} - | - {achieved}" in page
    assert "| EarlyLate, IPC 50 | 0.5775 | 2.000 (1.000..4.000) |" in page


def test_tables_have_torch_compile_where_it_was_timed_and_savings_where_there_are_any():
    full = row()["schedules"]["full"] | {"compiled": THREE, "compiled_ratio": THREE}
    page = "\n".join(speed_table.tables([row(schedules={"full": full}, time_of_full={})]))
    assert "| 2.00 (1.00..4.00) | 2 (1..4) | 2.00 (1.00..4.00) | 2.000 | 3,000 |" in page
    assert "EarlyLate" not in page
    assert "ideal time" not in page
    timed = {"rivals": {"PIL": THREE, "tensor": THREE, "compiled": THREE}}
    timed["ratios"] = timed["rivals"]
    counted = {"flops": 2e9, "bytes": 1e6, "peak_flops": 4e12, "peak_bytes": 1e10}
    page = "\n".join(train_table.table([train_row(**timed, **counted)]))
    assert page.count("| 2 (1..4) | 2.00 (1.00..4.00) ") == 3
    assert page.splitlines()[2].endswith("| 12% | 3,000 | 75% | 2 | 15% |")


def test_a_gpus_rows_never_have_the_allocators_settings():
    rows = [row(allocator="default"), row(allocator="default", torch_device="NVIDIA H200")]
    assert sum("default malloc" in line for line in speed_table.tables(rows[:1])) == 3
    assert not any("default malloc" in line for line in speed_table.tables(rows[1:]))


def test_a_page_is_filled_between_its_markers_again_and_again():
    def fill(page, lines):
        return measured.fill(page, lines, "some_speed", "docs/some.md")

    begin, end = measured.markers("some_speed")
    page = f"above\n{begin}\nold\n{end}\nbelow\n"
    once = fill(page, ["new", "lines"])
    assert once == f"above\n{begin}\nnew\nlines\n{end}\nbelow\n"
    assert fill(once, ["new", "lines"]) == once
    for damaged in ("none", page.replace(end, "")):
        with pytest.raises(UserError, match=r"some\.md needs"):
            fill(damaged, [])


@pytest.mark.parametrize(
    ("page", "script"),
    [
        ("performance", "recover_speed"),
        ("performance", "step_parts"),
        ("performance", "train_eval_speed"),
        ("evaluation", "label_store"),
        ("evaluation", "protocol_changes"),
    ],
)
def test_the_pages_have_their_markers(page, script):
    measured.fill((ROOT / "docs" / f"{page}.md").read_text(), [], script, page)


def test_every_case_is_measured_and_those_before_a_bad_one_are_kept(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    import cases
    import torch_recovery

    kept, pages = [], []
    monkeypatch.setattr(torch_recovery, "prepare", lambda threads: torch.device("cpu"))
    monkeypatch.setattr(measured, "keep", lambda *given: kept.append(given) or ["all"])
    monkeypatch.setattr(measured, "publish", lambda *given: pages.append(given))
    monkeypatch.setattr(sys, "argv", ["some_speed.py", "--cases=a/32,b/32", "--write"])
    parser = cases.parser("Times.", ["a/32", "b/32", "c/224"], 40, "something")
    assert parser.get_default("cases") == "a/32,b/32"  # for a CPU
    chosen = cases.parse(parser, ["a/32", "b/32", "c/224"])

    def measure(name, given, device):
        if name == "b/32" and bad:
            raise UserError("The disk is full.")
        return {"case": name}

    def run():
        cases.run("some_speed", chosen, measure, lambda rows: [str(len(rows))], ("case",))

    bad = False
    run()
    assert capsys.readouterr().out == "2\n"
    assert kept == [("some_speed", "cpu", [{"case": name}], ("case",)) for name in ("a/32", "b/32")]
    assert pages == [(cases.PAGE, ["1"], "some_speed")] * 2
    bad = True
    with pytest.raises(SystemExit, match=r"some_speed: The disk is full\."):
        run()
    assert len(kept) == 3
    monkeypatch.setattr(sys, "argv", ["some_speed.py", "--cases=d/32"])
    with pytest.raises(SystemExit):
        cases.parse(parser, ["a/32", "b/32"])
    assert "there is no case 'd/32'; there are a/32, b/32" in capsys.readouterr().err


def test_both_sides_compute_the_same_loss():
    """The rival does the same work: crop, flip, teacher, BN terms, and every image moves."""
    torch = pytest.importorskip("torch")
    import torch_recovery
    from speed_sides import Ours, Rival, make_problem

    from delt_jax.models import ModelSpec
    from delt_jax.recipe import RecoverRecipe
    from delt_jax.recovery.schedule import make_schedule

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


def test_our_data_set_of_pil_views_and_tensor_views_have_the_same_operations():
    """Each tensor operation against Pillow's, away from the border, where resamplings differ."""
    torch = pytest.importorskip("torch")
    import torch_views

    draw = np.random.default_rng(0)
    pixels = draw.integers(20, 230, (31, 31, 3)).astype(np.uint8)
    smooth = (np.add.outer(np.arange(31), 2 * np.arange(31))[..., None] * [1, 2, 1]).astype(
        np.uint8
    )
    arguments = {"rotate": 20.0, "posterize": 3, "solarize": 150, "solarize_add": 66}
    for name in torch_views.NAMES:
        picture = smooth if name in torch_views.MOVES else pixels
        image = Image.fromarray(picture)
        tensor = torch.tensor(picture.transpose(2, 0, 1)[None].astype(np.float32))
        value = arguments.get(name, 0.2 if name in torch_views.MOVES else 1.3)
        if name in torch_views.MOVES:
            kernel = Image.Resampling.BILINEAR
            theirs = torch_views.move_pil(image, name, value, kernel, (9, 9, 9))
            theta = torch.tensor([torch_views.matrix(name, value)])
            ours = torch_views.move(tensor, theta, False, torch.full((3, 1, 1), 9.0))
        else:
            theirs = torch_views.PIL_OPERATIONS[name](image, value)
            ours = torch_views.TENSOR_OPERATIONS[name](tensor, torch.full((1, 1, 1, 1), value))
        apart = np.abs(np.asarray(theirs, float) - ours[0].numpy().transpose(1, 2, 0))
        assert (apart > 1).mean() < 0.03, name


def sources() -> list:
    return sorted((ROOT / "benchmarks").glob("*.py"))


def imported(tree: ast.Module) -> list[tuple[str, str]]:
    """(module, name) of every `from delt_jax... import name`, wherever it stands."""
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("delt_jax")
        for alias in node.names
    ]


def resolve(module: str, name: str):
    """What an import binds, or None if it would fail."""
    found = None
    with contextlib.suppress(ModuleNotFoundError):
        found = getattr(importlib.import_module(module), name, None)
        found = found or importlib.import_module(f"{module}.{name}")
    return found


def rotten(tree: ast.Module) -> list[str]:
    """Names of the package that a script uses and that are not there."""
    bad, modules = [], {}
    for module, name in imported(tree):
        found = resolve(module, name)
        if found is None:
            bad.append(f"{module}.{name}")
        elif inspect.ismodule(found):
            modules[name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and not hasattr(module, node.attr):
                bad.append(f"{module.__name__}.{node.attr}")
    return bad


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_what_benchmarks_take_from_the_package_is_there(path):
    """Without torch, so that no benchmark rots where it cannot be run."""
    assert rotten(ast.parse(path.read_text())) == []


def test_rotten_names_are_found():
    text = (
        "from delt_jax.store.files import nothing\nfrom delt_jax.gone import module\n"
        "from delt_jax.core import keys\nkeys.stream\nkeys.lost\n"
    )
    assert rotten(ast.parse(text)) == [
        "delt_jax.store.files.nothing",
        "delt_jax.gone.module",
        "delt_jax.core.keys.lost",
    ]


def import_all(paths, before: str) -> None:
    """In a process of its own, because they set up JAX and the allocator."""
    names = ", ".join(path.stem for path in paths)
    code = f"import sys; sys.path.insert(0, 'benchmarks'); {before}; import {names}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_benchmarks_can_be_imported():
    pytest.importorskip("torch")
    import_all(sources(), "pass")


def test_some_benchmarks_can_be_imported_without_torch():
    able = (
        *("allocator", "cold_start", "label_store", "label_table", "measured", "peaks"),
        *("repeatability", "speed_table", "train_table"),
    )
    import_all(map(Path, able), "sys.modules['torch'] = None")


def train_row(**changes):
    """A row of train_eval_speed.py, twice as fast as PIL workers."""
    speed = {"median": 1500.0, "min": 1400.4, "max": 1600.6}
    return {
        "case": "conv3/32",
        "dtype": "float32",
        "ipc": 10,
        "allocator": "kept",
        "protocol": "delt: 300 epochs",
        "images": 100,
        "batch": 50,
        "epochs": 4,
        "passes": 3,
        "ours": speed,
        "three_seeds": THREE,
        "rivals": {"PIL": THREE, "tensor": speed},
        "ratios": {"PIL": THREE, "tensor": {"median": 1.0, "min": 0.9, "max": 1.1}},
        "view_share": 0.123,
        "loss_deviation": 7e-8,
        "workers": 2,
        "torch_layout": "nchw",
        "torch_device": "CPU",
        "torch_version": "2.13",
        "machine": "two cores",
        "date": "2026-11-22",
    } | changes


def test_the_table_of_training_gives_speeds_ratios_and_the_share_of_views():
    page = "\n".join(train_table.table([train_row(), train_row(dtype="bfloat16", ipc=50)]))
    cells = (
        "1,500 (1,400..1,601) | 2 (1..4) | 2.00 (1.00..4.00) | 1,500 (1,400..1,601) "
        "| 1.00 (0.90..1.10) | - | - | 2.00 (1.00..4.00) | 12% | - | - | - | - |"
    )
    assert f"| conv3/32 px, IPC 10 | {cells}" in page
    assert f"| conv3/32 px, IPC 50, bfloat16 | {cells}" in page
    assert "delt: 300 epochs; 100 images in batches of 50; 3 passes of 4 epochs" in page


def test_the_rivals_train_as_ours_does():
    """The same loss on the same views, views of both kinds alike, and a speed of each."""
    torch = pytest.importorskip("torch")
    import torch_recovery
    import torch_views
    from train_sides import Ours, Rival, make_problem

    from delt_jax.models import ModelSpec

    problem = make_problem(ModelSpec("conv3", 3, 8, 3), 2, epochs=2)
    device = torch_recovery.prepare(threads=1)
    ours, rival = Ours(problem, 1), Rival(problem, "tensor", 0, device, "nchw")
    views = np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype(np.float32)
    assert ours.loss(views) == pytest.approx(rival.loss(views), rel=1e-3)
    assert min(ours.run(), rival.run(1), ours.view_seconds()) > 0

    program, pixels = problem.program, problem.images.pixels
    spec, own = program.protocol.views, program.normalisation
    torch.manual_seed(0)
    placed = torch.tensor(pixels.transpose(0, 3, 1, 2))
    by_tensor = torch_views.TensorViews(placed, spec, own)
    at_once = torch.cat([by_tensor(torch.arange(6)) for _ in range(60)])
    by_pil = torch_views.PilViews(pixels, spec, own)
    one_by_one = torch.stack([by_pil[i] for _ in range(60) for i in range(6)])
    assert at_once.shape == one_by_one.shape == (360, 3, 8, 8)
    assert at_once.mean().item() == pytest.approx(one_by_one.mean().item(), abs=0.05)
    assert at_once.std().item() == pytest.approx(one_by_one.std().item(), abs=0.05)
