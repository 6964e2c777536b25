"""Stage 4, relabel: the teachers' soft labels of the distilled images.

Every image gets one label without augmentation, for the regime "fixed" and for users without a
teacher. Where `evaluate.regimes` has "stored", the views of some epochs get labels, too.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import models
from delt_jax.core.progress import progress, say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import failed_training
from delt_jax.formats import distilled
from delt_jax.labels import compact, label_store, labelling, soft_labels
from delt_jax.labels.label_store import LabelPlan
from delt_jax.labels.labelling import EpochLabeller
from delt_jax.recipe import Recipe
from delt_jax.runtime import processes as hosts
from delt_jax.stages.costs import amount
from delt_jax.store import artefact, files
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import protocols
from delt_jax.training.protocols import EvalSetting

ARTEFACT = soft_labels.FOLDER
MANIFEST = f"{ARTEFACT}/manifest.json"
_STORED = "stored "  # begins the names of inputs that only stored labels of views have


def skipped(recipe: Recipe) -> str:
    """Why nothing is labelled, as a phrase; empty if images are."""
    return "" if recipe.needs_teacher else "nothing asks for a teacher's labels"


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the soft labels, those of stored labels included.

    Stored labels stay where no regime uses them any more: the stage runs again to make missing
    labels, but never to remove them.
    """
    stage_inputs = _label_inputs(recipe, source, workdir)
    if plan_of(recipe, source) is None:
        before = (workdir.manifest(MANIFEST) or {}).get("inputs", {})
        stage_inputs |= {name: v for name, v in before.items() if name.startswith(_STORED)}
    return stage_inputs


def _label_inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Settings and hashes that the soft labels depend on."""
    teacher = workdir.needed("teacher/manifest.json", "squeeze")
    parts = teacher_lib.parts([teacher])
    stage_inputs = {
        "class_names": source.class_names,
        "teacher": teacher["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }
    if recipe.relabel.teachers:
        more = labelling.described(recipe.relabel.teachers, source)
        stage_inputs["relabel.teachers"] = [teacher.hash for teacher in more]
        parts |= {f"model.{t.spec.name}": models.version(t.spec.name) for t in more}
    stage_inputs |= labelling.ensemble_inputs(recipe, workdir)
    if recipe.relabel.ensemble:
        parts |= teacher_lib.parts(teacher_lib.manifests_of_others(workdir.path / "teacher"))
    stage_inputs |= versions(parts)
    plan = plan_of(recipe, source)
    if plan is not None:
        settings = plan.as_dict()
        settings |= versions(plan.views.versions() | {"labels.compact": compact.VERSION})
        del settings["trained_epochs"]  # only the size of the naive store depends on it
        stage_inputs |= {f"{_STORED}{name}": value for name, value in settings.items()}
    return stage_inputs


def plan_of(recipe: Recipe, source: Source) -> LabelPlan | None:
    """Which views get stored labels; None where no student learns in the regime "stored"."""
    if "stored" not in recipe.evaluate.regimes:
        return None
    return protocols.label_plan(recipe, _first_student(recipe, source))


def _first_student(recipe: Recipe, source: Source) -> EvalSetting:
    student = recipe.evaluate.students[0]
    return EvalSetting(student, len(source.class_names), recipe.ipc, source.image_size)


def size_line(plan: LabelPlan) -> str:
    """A line with the size of stored labels, and what all outputs of all epochs would take."""
    kept = f"the {plan.top_k} largest" if plan.top_k else "all"
    naive = label_store.naive_bytes(plan)
    return (
        f"stored labels: {amount(label_store.stored_bytes(plan), 'B')} ({plan.epochs} epochs x "
        f"{plan.num_images} images, {kept} of {plan.num_classes} {plan.form}), "
        f"{label_store.ratio(plan):.3g} of the {amount(naive, 'B')} of all outputs for "
        f"{plan.trained_epochs} epochs in float16"
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/soft_labels. Labelled epochs are in soft_labels.partial until all are done.

    Every process of a job labels its share of the epochs; process 0 does the rest.
    """
    started = time.perf_counter()
    r = recipe.relabel
    teachers = labelling.load_teachers(
        workdir.path / "teacher", r.teachers, source, say, r.ensemble
    )
    synthetic = distilled.read(workdir.path / "distilled").to_look_at()  # teachers know pixels
    teacher_lib.check_class_names("The distilled set", synthetic.class_names, source)
    partial = workdir.path / f"{ARTEFACT}.partial"
    plan, stage_inputs = _begin(recipe, source, workdir) if hosts.is_first() else (None, {})
    described = hosts.broadcast(None if plan is None else plan.as_dict())
    if described is not None:
        plan = LabelPlan.from_dict(described)
        _label_epochs(EpochLabeller(teachers, synthetic.images, plan), plan, partial)
        hosts.barrier("its epochs")
    if not hosts.is_first():
        return
    workdir.refresh()
    logits = labelling.fixed_logits(teachers, synthetic.images)
    agreement = float((logits.argmax(-1) == synthetic.labels).mean())
    theirs = teachers[len(teachers) - len(r.teachers) :]  # squeeze has judged the run's own
    doubts = [each for t in theirs for each in failed_training.of_teacher(t, source)]
    temperature = protocols.resolve(recipe, _first_student(recipe, source)).temperature
    doubts += failed_training.of_labels(logits, synthetic.labels, temperature)
    manifest = {
        "inputs": stage_inputs,
        "warnings": doubts,
        "class_names": list(source.class_names),
        "teacher": {"hash": teachers[0].hash, "accuracy": teachers[0].accuracy},
        "more_teachers": [{"hash": t.hash, "accuracy": t.accuracy} for t in teachers[1:]],
        "distilled": synthetic.manifest["hash"],
        "views": "none: logits.npz has one label per image as it is",
        "teacher_accuracy_on_distilled": agreement,
        "seconds": round(time.perf_counter() - started, 1),
    }
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        if plan is not None:
            digests = label_store.write(folder, _finished(partial, plan))
            manifest["stored"] = label_store.describe(plan, digests, [t.hash for t in teachers])
        soft_labels.write(folder, logits, manifest)
    files.delete_folder(partial)
    _tell(workdir, manifest, len(logits), plan)


def _begin(
    recipe: Recipe, source: Source, workdir: WorkDir
) -> tuple[LabelPlan | None, dict[str, Any]]:
    """Which views get labels, and the stage's inputs; takes over what is intact of before."""
    plan, stage_inputs = plan_of(recipe, source), _label_inputs(recipe, source, workdir)
    if plan is None:
        plan, stage_inputs = _plan_before(workdir, stage_inputs)
    partial = workdir.partial(ARTEFACT, stage_inputs)
    say(f"  {size_line(plan)}" if plan else "  asking the teachers about the distilled images")
    if plan is not None:
        _keep_intact(workdir, stage_inputs, plan, partial)
    return plan, stage_inputs


def _tell(
    workdir: WorkDir, manifest: dict[str, Any], num_images: int, plan: LabelPlan | None
) -> None:
    """Says and logs what was labelled."""
    agreement, count = manifest["teacher_accuracy_on_distilled"], 1 + len(manifest["more_teachers"])
    who = "the teacher agrees" if count == 1 else f"the mean of {count} teachers agrees"
    say(f"  labelled {num_images} images; {who} with {agreement:.1%} of the classes")
    failed_training.told(manifest["warnings"])
    figures: dict[str, float] = {"teacher_accuracy_on_distilled": agreement}
    if plan is not None:
        size = (workdir.path / ARTEFACT / label_store.FILE).stat().st_size
        figures |= {"stored_bytes": size, "naive_bytes": label_store.naive_bytes(plan)}
        say(f"  labelled {plan.epochs} epochs of views; {label_store.FILE} has {size:,} bytes")
    workdir.log.write("relabel", num_images, **figures)


def _plan_before(
    workdir: WorkDir, stage_inputs: dict[str, Any]
) -> tuple[LabelPlan | None, dict[str, Any]]:
    """Plan and inputs of stored labels that were made before, where the other inputs are equal.

    No regime asks for them now, but they stay where the stage runs to mend what is damaged.
    """
    manifest = workdir.manifest(MANIFEST) or {}
    before = manifest.get("inputs", {})
    stored = {name: value for name, value in before.items() if name.startswith(_STORED)}
    if not stored or changes(before, stage_inputs | stored):
        return None, stage_inputs
    try:
        return LabelPlan.from_dict(manifest["stored"]["plan"]), stage_inputs | stored
    except (KeyError, TypeError, ValueError):
        return None, stage_inputs


def _keep_intact(
    workdir: WorkDir, stage_inputs: dict[str, Any], plan: LabelPlan, partial: Path
) -> None:
    """Takes over the epochs that are intact of labels that were made from the same inputs."""
    manifest = workdir.manifest(MANIFEST)
    if manifest is None or changes(manifest["inputs"], stage_inputs):
        return
    digests = manifest.get("stored", {}).get("sha256", ())
    path = workdir.path / ARTEFACT / label_store.FILE
    for epoch, labels in label_store.intact_epochs(path, plan, digests):
        if _read_epoch(partial, epoch) is None:
            _write_epoch(partial, epoch, labels)


def _finished_epoch(partial: Path, epoch: int) -> Path:
    """File of a labelled epoch."""
    return partial / f"epoch_{epoch:06}.npz"


def _read_epoch(partial: Path, epoch: int) -> bytes | None:
    """The labels of an epoch; None if they are not there, or not as they were written."""
    try:
        return files.read_npz(_finished_epoch(partial, epoch), "relabel")["labels"].tobytes()
    except (UserError, KeyError):
        return None


def _finished(partial: Path, plan: LabelPlan) -> Iterator[bytes]:
    """The labels of all epochs, in order."""
    for epoch in range(plan.epochs):
        labels = _read_epoch(partial, epoch)
        if labels is None:
            raise UserError(
                f"{_finished_epoch(partial, epoch)} was damaged after it was written; the same "
                f"command labels that epoch again."
            )
        yield labels


def _label_epochs(labeller: EpochLabeller, plan: LabelPlan, partial: Path) -> None:
    """Labels every epoch of this process's share that has no labels yet."""
    mine = hosts.share(range(plan.epochs))
    missing = [e for e in mine if _read_epoch(partial, e) is None]
    done = len(mine) - len(missing)
    if done:
        say(f"  {done} of {len(mine)} epochs were labelled before")
    total = len(mine) * plan.num_images
    with progress(total, "relabel", "view", done * plan.num_images) as bar:
        for epoch in missing:
            labels = label_store.to_bytes(labeller.label(epoch, bar.update))
            _write_epoch(partial, epoch, labels)


def _write_epoch(partial: Path, epoch: int, labels: bytes) -> None:
    stored = np.frombuffer(labels, np.uint8)
    files.write_npz_fast(_finished_epoch(partial, epoch), labels=stored)
