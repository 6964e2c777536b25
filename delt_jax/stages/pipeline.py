"""Runs the stages in order over a work directory: skips what is done, redoes what changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from delt_jax.core.progress import say
from delt_jax.core.spelling import nearest
from delt_jax.data import Source
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.evaluation import rows
from delt_jax.formats import distilled
from delt_jax.recipe import Recipe
from delt_jax.recovery import ranking
from delt_jax.runtime import processes as hosts
from delt_jax.stages import ahead, evaluate, experts, learn, rank, recover, relabel, report, squeeze
from delt_jax.store import artefact, regular
from delt_jax.store.workdir import WorkDir, changes

_SECONDS_TO_SEE = 60  # a file that another host has written; NFS asks its server that often


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
      name: a verb, as --stages has it.
      manifest: path below the work directory of the file whose presence means that it is done.
      owns: what it makes, by the first part of the path below the work directory.
      needs: names of the stages whose artefacts it reads.
      inputs: everything that its artefact depends on, by name; recorded in the manifest.
      run: makes the artefact; where `is_shared`, by a share of the work in every process of a job.
      is_shared: whether all processes of a job run it, rather than process 0 alone.
      skipped: why a recipe leaves nothing for it to do, as a phrase; empty where there is work.
    """

    name: str
    manifest: str
    owns: tuple[str, ...]
    needs: tuple[str, ...]
    inputs: Callable[[Recipe, Source, WorkDir], dict[str, Any]]
    run: Callable[[Recipe, Source, WorkDir], None]
    is_shared: bool = False
    skipped: Callable[[Recipe], str] = lambda recipe: ""


STAGES = (
    Stage(
        *("squeeze", "teacher/manifest.json", ("teacher", "teachers"), ()),
        *(squeeze.inputs, squeeze.run, False, squeeze.skipped),
    ),
    Stage(
        *("rank", ranking.MANIFEST, (ranking.TABLE, ranking.MANIFEST), ("squeeze",)),
        *(rank.inputs, rank.run, True, rank.skipped),
    ),
    Stage(
        "recover",
        "distilled/manifest.json",
        ("distilled",),
        ("squeeze", "rank"),
        recover.inputs,
        recover.run,
        is_shared=True,
        skipped=recover.skipped,
    ),
    Stage(
        *("experts", "experts/manifest.json", ("experts",), ()),
        *(experts.inputs, experts.run, True, experts.skipped),
    ),
    Stage(
        *("learn", "distilled/manifest.json", ("distilled",), ("experts",)),
        *(learn.inputs, learn.run, False, learn.skipped),
    ),
    Stage(
        "relabel",
        "soft_labels/manifest.json",
        ("soft_labels",),
        ("squeeze", "recover", "learn"),
        relabel.inputs,
        relabel.run,
        is_shared=True,
        skipped=relabel.skipped,
    ),
    Stage(
        "evaluate",
        "evaluation/manifest.json",
        ("evaluation", evaluate.SCORES),
        ("squeeze", "rank", "recover", "learn", "relabel"),
        evaluate.inputs,
        evaluate.run,
        is_shared=True,
        skipped=rows.skipped,
    ),
    Stage(
        "report",
        "report/manifest.json",
        ("report", report.SUMMARY),
        ("squeeze", "recover", "learn", "evaluate"),
        report.inputs,
        report.run,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)
# The stages that make a distilled set, by `synthesis`; of a run, one of them.
MAKERS = ("recover", "learn")


def of_recipe(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe can have: none that serves the other synthesis alone."""
    walks = not experts.skipped(recipe)
    others = {*MAKERS, "experts"} - {recipe.synthesis, "experts" if walks else ""}
    return tuple(s for s in STAGES if s.name not in others)


def chosen(names: Sequence[str], recipe: Recipe, workdir: WorkDir) -> tuple[Stage, ...]:
    """The named stages in pipeline order; all that the recipe can have if none is named.

    Raises:
      UserError: for an unknown name, or a stage whose needs are neither there nor named.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"There is no stage {name!r}{nearest(name, list(NAMES))} --stages takes some of "
                f"{','.join(NAMES)}."
            )
    stages = tuple(s for s in STAGES if s.name in names) if names else of_recipe(recipe)
    by_name = {s.name: s for s in STAGES}
    maker = next((s for s in stages if s.name in MAKERS), None)
    if maker is not None and is_imported(workdir):
        fault = damage(maker, workdir, contents=False)
        if fault:
            damaged = DamagedArtefact(workdir.path / "distilled", f"{workdir.path}/{fault}")
            raise _with_advice(damaged, maker, stages, workdir)
    coming = {s.name for s in stages}
    # Of the sets that students train on, only this one is chosen by the ranking.
    ranked = "selected" in recipe.evaluate.images
    for stage in stages:
        for need in () if stage.skipped(recipe) else stage.needs:
            if (stage.name, need) == ("evaluate", "rank") and not ranked:
                continue
            if need in coming or by_name[need].skipped(recipe):
                continue
            path = by_name[need].manifest
            try:
                workdir.read_manifest(path, need)
            except FileNotFoundError as e:
                raise UserError(
                    f"The {stage.name} stage needs what {need} makes, and {workdir.path} has no "
                    f"{path}; add {need} to --stages."
                ) from e
            except DamagedArtefact as e:
                raise _with_advice(e, by_name[need], stages, workdir) from e
    return stages


def status(
    stage: Stage, recipe: Recipe, source: Source, workdir: WorkDir, verify: bool = False
) -> tuple[bool, str]:
    """Whether a stage must run, and why or why not, as a phrase for the user.

    Looks at the sizes of the artefact's files; with `verify` it reads them all.
    """
    if why := stage.skipped(recipe):
        return False, f"left out, as {why}"
    try:
        manifest = workdir.read_manifest(stage.manifest, stage.name)
    except FileNotFoundError:
        return True, "not done yet"
    except DamagedArtefact as e:
        return True, f"redone because {_short(e.fault, workdir)}"
    made = manifest.get("synthesis", "recover")  # older sets do not say it
    if stage.name in MAKERS and made != stage.name:
        was = {"recover": "recovered", "learn": "learned"}
        return True, f"redone because the set there was {was[made]}, not {was[stage.name]}"
    differ = changes(manifest["inputs"], stage.inputs(recipe, source, workdir))
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        return True, f"redone because {'; '.join(differ[:3])}{more}"
    other = artefact.other_random_numbers(manifest)
    if other:
        return True, f"redone because {other}"
    is_listed = artefact.lists_files(manifest)
    folder = workdir.path / "distilled"
    if stage.name == "recover" and not is_listed and not distilled.is_whole(folder, manifest):
        return True, "redone because images are missing"
    gone = squeeze.missing(workdir) if stage.name == "squeeze" else None
    if gone:
        return True, f"redone because {gone} is missing"
    fault = damage(stage, workdir, verify)
    if fault:
        return True, f"redone because {fault}"
    if verify and not is_listed:
        return False, "done, nothing changed; an older version made it and listed no files"
    return False, "done, nothing changed"


def damage(stage: Stage, workdir: WorkDir, contents: bool) -> str:
    """What is wrong with the first damaged file of a stage, as a sentence; empty if none is.

    Args:
      stage: done or not.
      workdir: has what it made.
      contents: whether files are read; otherwise only their sizes are looked at.
    """
    try:
        manifest = workdir.read_manifest(stage.manifest, stage.name)
    except FileNotFoundError:
        return ""
    except DamagedArtefact as e:
        return _short(e.fault, workdir)
    listed = [entry["folder"] for entry in manifest.get("others", ())]
    paths = [stage.manifest, *(f"{folder}/manifest.json" for folder in listed)]
    held = ((workdir.path / path, workdir.manifest(path) or {}) for path in paths)
    faults = (artefact.damage(*one, contents) for one in held)
    return _short(next(filter(None, faults), ""), workdir)


def _short(fault: str, workdir: WorkDir) -> str:
    """A sentence with paths relative to the work directory."""
    return fault.replace(f"{workdir.path}/", "")


def run(
    recipe: Recipe,
    source: Source,
    workdir: WorkDir,
    names: Sequence[str] = (),
    verify: bool = False,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Runs the chosen stages, each only if its artefact is missing, damaged or out of date.

    Where a stage finds that a file of an earlier one is damaged, that stage makes it again and the
    run goes on from there, once for each stage. All processes of a job call this, and go through
    the stages in step: process 0 decides which run, and why, and calls `after` after each that ran.

    Raises:
      DamagedArtefact: if a file is damaged that no chosen stage makes, or makes better.
    """
    stages = chosen(names, recipe, workdir)
    for sentence in damaged_others(stages, recipe, workdir) if verify and hosts.is_first() else ():
        raise UserError(sentence)
    ahead.prepare(recipe, source, workdir, [stage.name for stage in stages])
    course = _Course(stages, recipe, source, workdir, verify)
    while (turn := hosts.broadcast(course.next() if hosts.is_first() else None)) is not None:
        name, needed, why = turn
        stage = next(stage for stage in stages if stage.name == name)
        say(f"{name}: {why}")
        try:
            if needed and (stage.is_shared or hosts.is_first()):
                stage.run(recipe, source, workdir)
            hosts.barrier(name)
        except DamagedArtefact as e:
            if hosts.count() > 1:  # the others may not have read that file
                raise
            course.go_back(e)
        else:
            course.is_past(name)
            if needed and hosts.is_first():
                after()
        _see(stage, workdir)


class _Course:
    """The course of a run through its stages, as process 0 decides it."""

    def __init__(
        self,
        stages: Sequence[Stage],
        recipe: Recipe,
        source: Source,
        workdir: WorkDir,
        verify: bool,
    ):
        """Begins with the first of the stages."""
        self._stages, self._work, self._verify = stages, (recipe, source, workdir), verify
        self._number = 0
        self._again: dict[str, str] = {}  # why a stage that was done is made again
        self._verified: set[str] = set()

    def next(self) -> tuple[str, bool, str] | None:
        """The next stage's name, whether it must run, and why; None after the last one."""
        while self._number < len(self._stages):
            stage = self._stages[self._number]
            look = self._verify and stage.name not in self._verified
            try:
                needed, why = status(stage, *self._work, look)
            except DamagedArtefact as e:
                self.go_back(e)
                continue
            self._verified.add(stage.name)
            if not needed and self._again.get(stage.name):
                needed, why = True, f"redone because {self._again[stage.name]}"
            return stage.name, needed, why
        return None

    def is_past(self, name: str) -> None:
        """Goes on to the stage after this one."""
        if name in self._again:
            self._again[name] = ""
        self._number += 1

    def go_back(self, damaged: DamagedArtefact) -> None:
        """Goes back to the stage that made a damaged file, once for each stage.

        Raises:
          DamagedArtefact: if no stage made it.
          UserError: if none of the run's stages makes it, or made it again just now.
        """
        workdir = self._work[2]
        owner = _owner(damaged, self._work[0], workdir)
        if owner is None:
            raise damaged
        if owner not in self._stages[: self._number + 1]:
            raise _with_advice(damaged, owner, self._stages, workdir) from damaged
        if owner.name in self._again:
            raise UserError(
                f"{damaged.fault}, although it was made again just now; check the disk."
            ) from damaged
        self._again[owner.name] = _short(damaged.fault, workdir)
        self._number = self._stages.index(owner)


def _see(stage: Stage, workdir: WorkDir) -> None:
    """Waits until this process sees what process 0 has made: NFS shows files late.

    Raises:
      UserError: if it still does not after `_SECONDS_TO_SEE`.
    """

    def mine() -> str | None:
        return (workdir.manifest(stage.manifest) or {}).get("hash")

    theirs = hosts.broadcast(mine())
    if not workdir.wait_to_see(lambda: mine() == theirs, _SECONDS_TO_SEE):
        raise UserError(
            f"Process {hosts.index()} does not see {workdir.path / stage.manifest} as process "
            f"0 wrote it; check the file system that they share."
        )


def _owner(damaged: DamagedArtefact, recipe: Recipe, workdir: WorkDir) -> Stage | None:
    """The stage that made a file of the work directory; None for files from elsewhere."""
    if not damaged.path.is_relative_to(workdir.path):
        return None
    part = damaged.path.relative_to(workdir.path).parts[0].removesuffix(".partial")
    return next((stage for stage in of_recipe(recipe) if part in stage.owns), None)


def _with_advice(
    damaged: DamagedArtefact, owner: Stage, stages: Sequence[Stage], workdir: WorkDir
) -> UserError:
    """The sentence about a damaged file that none of the chosen stages makes."""
    if owner.name in MAKERS and is_imported(workdir):
        return UserError(
            f"{damaged.fault}; the set was imported, so import it again "
            f"(python -m delt_jax.export --to=distilled)."
        )
    names = [stage.name for stage in STAGES if stage == owner or stage in stages]
    return UserError(f"{damaged.fault}; add {owner.name} to --stages (--stages={','.join(names)}).")


def is_imported(workdir: WorkDir) -> bool:
    """Whether the set in the work directory was imported, even where its manifest is damaged."""
    try:
        with regular.open_file(workdir.path / "distilled/manifest.json") as f:
            return b'"imported"' in f.read()
    except OSError:
        return False


def damaged_others(stages: Sequence[Stage], recipe: Recipe, workdir: WorkDir) -> list[str]:
    """A sentence about each stage that is not among these and has a damaged file; reads all."""
    sentences = []
    for stage in of_recipe(recipe):
        fault = "" if stage in stages else damage(stage, workdir, contents=True)
        if fault:
            damaged = DamagedArtefact(workdir.path / stage.manifest, fault, stage.name)
            sentences.append(str(_with_advice(damaged, stage, stages, workdir)))
    return sentences
