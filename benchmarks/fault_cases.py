"""Cases of faults.py: which good input is damaged or which flag is odd, and who gets it."""

import importlib
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fault_changes
import fault_formats
import fault_inputs
import forks


class Case(NamedTuple):
    """A bad input and who gets it.

    Attributes:
      kind: what was damaged, a key of `KINDS`.
      what: what was done to it.
      act: gives it to delt_jax: returns None, or the exit status of a command.
    """

    kind: str
    what: str
    act: Callable[[], int | None]


def a_copy(base: Path, place: Path) -> Path:
    """A copy of a file or folder, with its name, in the case's own folder."""
    target = place / base.name
    if base.is_dir():
        shutil.copytree(base, target, symlinks=True)
    else:
        shutil.copy(base, target)
    return target


def damaged(base: Path, place: Path, draw: random.Random) -> tuple[Path, str]:
    """A damaged copy of a file or folder."""
    path = a_copy(base, place)
    if path.is_dir():
        return path, fault_changes.damage_folder(path, draw)
    return path, fault_changes.damage_file(path, draw)


def of_set(bases: Path, place: Path, draw: random.Random) -> Case:
    """A distilled set in any layout, loaded or exported."""
    base = draw.choice(sorted((bases / "sets").iterdir()))
    if base.suffix == ".pt" and base.stem == "set" and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_formats.damage_pickle(path.read_bytes(), draw)
        path.write_bytes(content)
    else:
        path, what = damaged(base, place, draw)
    names = draw.choice(((), (), (), ("a", "b", "c"), ("a",), ("a", "a", "a"), ("",) * 3))
    constants = draw.choice(((), (), (0.5,), (0.5, 0.5, 0.5), (0.0,), (float("nan"),)))
    if base.name == "mtt":
        constants = constants or (0.5,)
    if draw.random() < 0.25:
        to = draw.choice(("npz", "folder", "parquet", "distilled", "new000", "tfds"))
        line = [f"--to={to}", f"--out={place / 'out'}", str(path)]
        return Case("", f"{base.name}: {what}: export {to}", lambda: command("export", line))

    def act() -> None:
        import delt_jax

        delt_jax.load(path, class_names=names, mean=constants, std=constants)

    return Case("", f"{base.name}: {what}", act)


def of_data(bases: Path, place: Path, draw: random.Random) -> Case:
    """Real images of any source, opened and read."""
    base = draw.choice(sorted(p for p in (bases / "data").iterdir() if p.suffix != ".txt"))
    settings: dict[str, Any] = {"workers": 0, "image_size": draw.choice((0, 0, 4, 16))}
    what = ""
    if draw.random() < 0.15 and base.name in ("whole.npz", "flat", "splits"):
        path = a_copy(base, place)
        classes, what = damaged(bases / "data/classes.txt", place, draw)
        settings["classes"] = str(classes)
    else:
        path, what = damaged(base, place, draw)
    name = {"flat": "folder", "splits": "folder", "plain": "idx", "zipped": "idx", "tfds": "tfds"}
    settings |= {"name": name.get(base.name, "npz"), "path": str(path)}
    if settings["name"] == "idx":
        settings["image_size"] = 0
    if settings["name"] == "tfds":
        settings["dataset"] = "tiny_animals"
    if settings["name"] == "folder":
        settings["unreadable"] = draw.choice(("stop", "skip"))

    def act() -> None:
        from delt_jax.data import batches, measure_normalisation, open_source
        from delt_jax.recipe import DataRecipe

        recipe = DataRecipe(**settings)
        source = open_source(recipe)
        measure_normalisation(recipe, source)
        for split in (source.train, source.test):
            for _ in batches(split, 8):
                pass

    return Case("", f"{base.name}: {what}", act)


def of_teacher(bases: Path, place: Path, draw: random.Random) -> Case:
    """A file of weights, given to the squeeze stage."""
    base = draw.choice(sorted((bases / "teachers").iterdir()))
    if base.name == "teacher.pth" and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_formats.damage_pickle(path.read_bytes(), draw)
        path.write_bytes(content)
    elif base.name.endswith("d.pth") and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_formats.damage_zip(path.read_bytes(), draw)
        path.write_bytes(content)
    else:
        path, what = damaged(base, place, draw)
    if draw.random() < 0.3:
        mean, std = fault_inputs.MEAN_STD
        line = [*fault_inputs.TINY, f"--config.teacher.weights={path}", "--stages=squeeze"]
        line += [f"--config.data.mean={mean},", f"--config.data.std={std},"]
        line += [f"--workdir={place / 'run'}"]
        return Case("", f"{base.name}: {what}: squeeze", lambda: command("main", line))

    def act() -> None:
        from delt_jax.models import ModelSpec, torch_files, torch_weights

        state = torch_files.read(path)
        torch_weights.from_torch(state, ModelSpec("conv3", 10, 8, 1, 8))

    return Case("", f"{base.name}: {what}", act)


def of_run(bases: Path, place: Path, draw: random.Random) -> Case:
    """A file of a finished run; then the run, its plan, an export or a comparison's reader."""
    path, what = damaged(bases / "run", place, draw)
    how = draw.choice(("run", "run", "run", "run", "plan", "plan", "load", "export", "students"))
    line = [*fault_inputs.TINY, f"--workdir={path}"]
    if how == "plan":
        line.append("--dry_run")
    if how == "students":
        line.append("--config.evaluate.seeds=2")
    if how == "export":
        line = ["--to=npz", f"--out={place / 'out.npz'}", str(path)]
        return Case("", f"{what}: export", lambda: command("export", line))
    if how != "load":
        return Case("", f"{what}: {how}", lambda: command("main", line))

    def act() -> None:
        import delt_jax
        from delt_jax.comparison import tables
        from delt_jax.errors import UserError

        first: UserError | None = None
        for read in (lambda: delt_jax.load(path), lambda: tables.read(path, "own")):
            try:
                read()
            except UserError as e:
                first = first or e
        if first is not None:
            raise first

    return Case("", f"{what}: load", act)


def of_config(bases: Path, place: Path, draw: random.Random) -> Case:
    """A config file, planned by main or compare."""
    path, what = damaged(bases / "config/own.py", place, draw)
    if draw.random() < 0.4:
        extra = draw.choice(
            ("import sys; sys.exit(0)", "raise SystemExit('bye')", "1 / 0", "x = ",
             "config.ipc = 'a'", "config.nothing = 1", "return None", "return 3",
             "del config.seed", "exit()",
             "config.recover = 3", "config.seed = 10**30",
             "import nothing_of_that_name", "raise RecursionError", "config.ipc = float('nan')",
             "config.teacher.model = None", "config.data.class_names = {1: 2}")
        )  # fmt: skip
        place_of = "    config = default_config()\n"
        good = (bases / "config/own.py").read_text(encoding="utf-8")
        at_top = extra.startswith(("import", "x", "raise")) and draw.random() < 0.5
        text = f"{extra}\n{good}" if at_top else good.replace(place_of, f"{place_of}    {extra}\n")
        path.write_text(text, encoding="utf-8")
        what = f"own.py with {extra!r}"
    workdir = f"--workdir={place / 'run'}"
    if draw.random() < 0.25:
        line = [f"--configs={path}", workdir, "--dry_run"]
        return Case("", f"{what}: compare", lambda: command("compare", line))
    variant = draw.choice(("", "", ":", ":x", ":ipc=3", ":ü", ":a,b", "::"))
    line = [f"--config={path}{variant}", workdir, "--dry_run"]
    return Case("", f"{what}{variant}: main", lambda: command("main", line))


ODD_VALUES = (
    "", " ", "-1", "0", "1", "2", "1e400", "nan", "inf", "-inf", "9" * 30, "2147483648", "1e308",
    "None", "True", "abc", "'", "(1,", "[[[", "{}", "()", "(,)", "a" * 4000, "ü💥", "../..",
    "1,2,3", "-0.0", "1e-320", "0x10", "1_0", "٣", "__import__('os')", "a=1", "=", "1;2", "\n",
    "-", "--", "'a',",
    "/dev/null", "100000", "0.999999999", "0.5",
)  # fmt: skip
ODD_PATHS = (
    "", " ", "/dev/null", "/dev/full", "/proc/self/mem", "/nowhere/at/all", "a" * 300, "x/" * 2100,
    "~", "~nobody_of_this_name/x", "s3://bucket/x", "gs://b/x", "file:///tmp/x", "http://x/y",
    "a\nb", "ü💥", "-x", ".", "..", "/", "a,b", "a:b", "C:\\x", "\udcff\udcfe", "*", "a b",
)  # fmt: skip


def of_main(bases: Path, place: Path, draw: random.Random) -> Case:
    """Settings and flags of a run with odd values; planned, or its first stage run."""
    from delt_jax.recipe import SETTINGS

    line = [*fault_inputs.TINY]
    what = []
    workdir = f"--workdir={place / 'run'}"
    for _ in range(draw.choice((1, 1, 1, 2))):
        name = draw.choice(sorted(SETTINGS))
        value = draw.choice(ODD_VALUES)
        way = draw.random()
        if way < 0.6:
            given = f"--config.{name}={value}"
        elif way < 0.7:
            given = draw.choice(
                (f"--config.{name}", f"--noconfig.{name}", f"--config.{name[:-1]}={value}",
                 f"--config..{name}={value}", "--config.=1", "--config.recover=1", "---", "--",
                 "positional", "-h=3", "--config", "--workdir", "--help=x", "--flagfile=/dev/null",
                 "--flagfile=/nowhere", "--undefok=x", "--dry_run=maybe")
            )  # fmt: skip
        elif way < 0.8:
            given = f"--stages={draw.choice((*ODD_VALUES, 'squeeze,squeeze', 'report', 'rank,x'))}"
        elif way < 0.9:
            flag = draw.choice(
                ("num_processes", "process_id", "coordinator_address", "distributed")
            )
            given = f"--{flag}={value}"
        else:
            where = draw.choice(ODD_PATHS)
            option = draw.choice(
                ("workdir", "config", "config.data.path", "config.teacher.weights")
            )
            given = f"--{option}={where}"
            if option == "workdir":
                workdir = given
                continue
        line.append(given)
        what.append(given[:80])
    real = draw.random() < 0.15
    line += [workdir, *([] if real else ["--dry_run"])]
    if real and not any(g.startswith("--stages") for g in line):
        line.append("--stages=squeeze")
    told = " ".join([*what, workdir[:80], "" if real else "--dry_run"])
    return Case("", told, lambda: command("main", line))


def of_export(bases: Path, place: Path, draw: random.Random) -> Case:
    """Flags of an export with odd values."""
    source = a_copy(draw.choice(sorted((bases / "sets").iterdir())), place)
    given = {
        "to": draw.choice(("npz", "folder", "new000", "parquet", "distilled", "tfds")),
        "out": str(place / "out"),
    }
    flag = draw.choice(
        ("to", "out", "per_class", "quality", "class_names", "mean", "std", "overwrite", "source")
    )
    odd = draw.choice(ODD_PATHS if flag in ("out", "class_names", "source") else ODD_VALUES)
    paths = [str(source)]
    if flag == "source":
        paths = draw.choice(([odd], [odd, str(source)], [str(place)], []))
    elif flag == "class_names" and draw.random() < 0.7:
        names, how = damaged(bases / "data/names.txt", place, draw)
        given[flag] = str(names)
        odd = how
    elif flag == "out" and draw.random() < 0.5:
        given[flag] = odd = str(draw.choice((source, place, source / "images", place / "x/y/z")))
        if draw.random() < 0.5:
            given["overwrite"] = "true"
    else:
        given[flag] = odd
    line = [*(f"--{name}={value}" for name, value in given.items()), *paths]
    return Case(
        "",
        f"{source.name}: --to={given['to'][:20]} {flag} {odd[:60]!r}",
        lambda: command("export", line),
    )


def of_compare(bases: Path, place: Path, draw: random.Random) -> Case:
    """Flags of a comparison's plan with odd values."""
    own = str(forks.ROOT / "configs/digits.py")
    given = {"configs": own, "ipc": "1,2", "workdir": str(place / "grid")}
    flag = draw.choice(("configs", "ipc", "seeds", "workdir", "setting", "extra"))
    odd = draw.choice(ODD_PATHS if flag in ("configs", "workdir") else ODD_VALUES)
    more = []
    if flag == "configs":
        odd = draw.choice((odd, f"{own}:{odd}", f"{own},{odd}", f"{odd},{own}", f"{own},{own}"))
    if flag == "setting":
        from delt_jax.recipe import SETTINGS

        more = [f"--config.{draw.choice(sorted(SETTINGS))}={odd}"]
    elif flag == "extra":
        more = [
            draw.choice(("x", "--nothing=1", "--help", "-z", "--config=a.py", "--keep_going=x"))
        ]
        odd = more[0]
    else:
        given[flag] = odd
    line = [*(f"--{name}={value}" for name, value in given.items()), *more, "--dry_run"]
    return Case("", f"{flag} {(more or [odd])[0][:80]!r}", lambda: command("compare", line))


KINDS: dict[str, tuple[Callable[[Path, Path, random.Random], Case], int, tuple[str, ...]]] = {
    # Its cases, how many of them to each of the others, and the good inputs that it needs.
    "sets": (of_set, 6, ("sets",)),
    "data": (of_data, 5, ("data",)),
    "teachers": (of_teacher, 3, ("teachers",)),
    "run": (of_run, 5, ("run",)),
    "config": (of_config, 2, ("config",)),
    "main": (of_main, 4, ()),
    "export": (of_export, 3, ("sets", "data")),
    "compare": (of_compare, 2, ()),
}


def command(name: str, arguments: Sequence[str]) -> int:
    """Exit status of a command line, as its module's `main` gives it."""
    module = importlib.import_module(f"delt_jax.{name}")
    try:
        return module.main([name, *arguments])
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1
