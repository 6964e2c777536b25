"""Stage 5, evaluate: students trained from scratch, scored on the real test set."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from delt_jax import models
from delt_jax.core.progress import Progress, progress, say
from delt_jax.data import Source, measure_normalisation
from delt_jax.evaluation import metrics
from delt_jax.evaluation.metrics import Score, aggregate, score_of
from delt_jax.evaluation.rows import Row, rows_of, settle, student_spec
from delt_jax.evaluation.training_sets import Sets, TrainingSet
from delt_jax.labels import label_store, labelling, soft_labels
from delt_jax.labels.label_store import LabelStore
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery import ranking as ranking_store
from delt_jax.runtime import signals as interrupts
from delt_jax.store import files
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import real_images as supervised
from delt_jax.training import student_loop as student_training
from delt_jax.training.protocols import Protocol
from delt_jax.training.student_loop import Student, StudentTask, Trained
from delt_jax.training.student_step import PLAIN, StudentProgram

ARTEFACT = "evaluation"
SCORES = "scores"  # folder of finished scores by their id
_KEPT = "students"  # folder of their weights, within the artefact
_MANY_CLASSES = 100  # beyond which confusions are not kept


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the scores; keep_students counts only while weights are missing.

    So the stage runs again to make missing weights, but never to remove them.
    """
    stage_inputs = _score_inputs(recipe, source, workdir)
    if recipe.evaluate.keep_students and not (workdir.path / ARTEFACT / _KEPT).is_dir():
        stage_inputs["evaluate.keep_students"] = True
    return stage_inputs


def _score_inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Settings and hashes that the scores depend on."""
    settings = affecting("scores", recipe, "evaluate") | affecting("scores", recipe, "relabel")
    del settings["relabel.ensemble"]  # the hashes of its teachers count
    settings |= labelling.ensemble_inputs(recipe, workdir)
    if "selected" in recipe.evaluate.images:
        settings["ranking"] = workdir.needed(ranking_store.MANIFEST, "rank")["hash"]
    if "full" in recipe.evaluate.images:
        settings |= {f"teacher.{k}": v for k, v in _training(recipe).items()}
        settings |= {"data.mean": recipe.data.mean, "data.std": recipe.data.std}
    return settings | {
        "seed": recipe.seed,
        "select.rule": recipe.select.rule,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "soft_labels": workdir.needed("soft_labels/manifest.json", "relabel")["hash"],
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/evaluation.

    Finished students are in WORKDIR/scores, under the hash of all that they depend on, so the
    baselines of another run are found again; unfinished ones are in evaluation.partial.
    """
    r = recipe.relabel
    teachers = labelling.teachers(workdir.path / "teacher", r.teachers, source, say, r.ensemble)
    made_from = _score_inputs(recipe, source, workdir)
    partial = workdir.partial(ARTEFACT, made_from)
    evaluation = _Evaluation(recipe, source, workdir, teachers, partial)
    scores = evaluation.scores()
    rows = aggregate(scores)
    more = [{"hash": j.hash, "accuracy": j.accuracy} for j in teachers[1:]]
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        if recipe.evaluate.keep_students:
            shutil.copytree(partial / _KEPT, folder / _KEPT)
        files.write_json(folder / "scores.json", [asdict(s) for s in scores])
        files.write_json(
            folder / "manifest.json",
            {
                "inputs": made_from,
                "command": workdir.command,
                "protocols": list(dict.fromkeys(r.protocol for r in rows)),
                "teacher": {"hash": teachers[0].hash, "accuracy": teachers[0].accuracy},
                **({"more_teachers": more} if more else {}),
                "distilled": made_from["distilled"],
                "class_names": list(source.class_names),
                "test_images": len(source.test),
                "scored_on": source.scored,
                "rows": [asdict(r) for r in rows],
                "hash": identity([score.outcome() for score in scores]),
                "seconds": round(sum(s.seconds for s in scores), 1),
            },
        )
    shutil.rmtree(partial)
    for row in rows:
        say(f"  {row.student}, {row.regime}, {row.images} {row.ipc or 'all'}: {row.text()}")


@dataclass(frozen=True)
class _Planned:
    """A student to be scored: its seed, learning rate, set, and the id of its score."""

    seed: int
    rate: float
    data: TrainingSet
    id: str


class _Evaluation:
    """The rows of a run, one after the other."""

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        workdir: WorkDir,
        teachers: tuple[Teacher, ...],
        partial: Path,
    ):
        self._recipe, self._source, self._workdir = recipe, source, workdir
        self._teachers, self._partial = teachers, partial
        self._sets = Sets(recipe, source, workdir, teachers)
        self._folder = Path(recipe.evaluate.scores_folder or workdir.path / SCORES)
        with files.disk_errors_as_user_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._store: LabelStore | None = None
        if "stored" in recipe.evaluate.regimes:
            self._store = label_store.open_store(
                workdir.path / soft_labels.FOLDER,
                self._sets.distilled.manifest["hash"],
                source.class_names,
            )

    def scores(self) -> list[Score]:
        """All scores, those found again and those made now."""
        e = self._recipe.evaluate
        rows = rows_of(self._recipe, self._sets.ipc)
        small = [row for row in rows if row.images != "full"]
        each = e.seeds * max(1, len(e.learning_rates))
        total = sum(each * settle(self._recipe, self._source, row).epochs for row in small)
        scores = []
        with progress(total, "evaluate", "epoch") as bar, interrupts.deferred() as deferred_signal:
            for row in small:
                scores += self._row(row, bar, deferred_signal)
                deferred_signal.leave_if_asked()
        for row in rows:
            if row.images == "full":
                scores.append(self._full(row))
        return scores

    def _row(
        self, row: Row, bar: Progress, deferred_signal: interrupts.DeferredSignal
    ) -> list[Score]:
        e = self._recipe.evaluate
        rates = e.learning_rates or (settle(self._recipe, self._source, row).learning_rate,)
        planned = [self._plan(row, seed, rate) for rate in rates for seed in range(e.seeds)]
        missing = [one for one in planned if not self._is_scored(row, one)]
        epochs = settle(self._recipe, self._source, row).epochs
        bar.update(epochs * (len(planned) - len(missing)))
        if missing:
            self._train(row, planned, missing, bar, deferred_signal)
        scores = [self._read(one.id, row) for one in planned]
        for score in scores:
            self._workdir.log.write("evaluate", epochs, **asdict(score))
        return scores

    def _plan(self, row: Row, seed: int, rate: float) -> _Planned:
        data = self._sets.get(row.images, row.ipc, seed)
        program = self._program(row, len(data.images.labels))
        depends = {
            "course": replace(program, devices=1).as_dict(),
            "rate": rate,
            "seeds": (self._recipe.seed, seed),
            "data": data.hash,
            "teachers": [teacher.hash for teacher in self._teachers],
            "test": self._source.fingerprint,
            "devices": (self._recipe.evaluate.devices_per_student, _norm(self._recipe)),
        }
        return _Planned(seed, rate, data, identity(depends | versions(program.versions())))

    def _program(self, row: Row, count: int) -> StudentProgram:
        e = self._recipe.evaluate
        protocol = settle(self._recipe, self._source, row)
        labels_views = row.regime == "online" or (
            row.regime == "stored" and not self._is_stored(row)
        )
        plan = self._store.plan if self._store is not None and row.regime == "stored" else None
        if plan is not None:
            protocol = replace(protocol, views=plan.views, temperature=plan.temperature)
        if row.regime == "plain":
            protocol = replace(protocol, views=PLAIN)
        return StudentProgram(
            student=student_spec(self._recipe, row.student, self._source),
            teachers=tuple(teacher.spec for teacher in self._teachers) if labels_views else (),
            protocol=replace(protocol, learning_rate=1.0),  # every student has its own
            regime=row.regime,
            normalisation=self._teachers[0].normalisation,
            teacher_normalisations=tuple(teacher.normalisation for teacher in self._teachers),
            count=count,
            group_size=plan.group_size if plan is not None else protocol.batch_size,
            plan=plan,
            devices=e.devices_per_student,
            shared_norm=e.batch_norm == "shared",
        )

    def _is_stored(self, row: Row) -> bool:
        """Whether the stored labels are this row's; the teachers label other images' views."""
        return row.images == "recovered" and row.ipc == self._sets.ipc

    def _train(
        self,
        row: Row,
        planned: Sequence[_Planned],
        missing: Sequence[_Planned],
        bar: Progress,
        deferred_signal: interrupts.DeferredSignal,
    ) -> None:
        own = self._sets.differs(row.images)
        program = self._program(row, len(missing[0].data.images.labels))
        student_training.check(program)
        use_store = self._store is not None and program.plan is not None and not program.teachers
        task = StudentTask(
            program,
            tuple(teacher.variables for teacher in self._teachers) if program.teachers else (),
            None if own else missing[0].data.images,
            self._store.read if use_store and self._store is not None else None,
            self._source.test,
        )
        students = [
            Student(
                one.id, (self._recipe.seed, one.seed), one.rate, one.data.images if own else None
            )
            for one in missing
        ]
        stack = student_training.at_once(program, self._recipe.evaluate.seeds_at_once, len(planned))
        label = f"{row.student} {row.regime} {row.images}"
        results = student_training.train(
            task,
            students,
            stack,
            self._partial,
            60 * self._recipe.evaluate.save_minutes,
            lambda epochs, loss: bar.update(epochs, training=label, loss=loss),
            deferred_signal,
        )
        for one, student, trained in zip(missing, students, results, strict=True):
            protocol = settle(self._recipe, self._source, row, one.rate)
            score = make_score(one, row, protocol, trained, self._source)
            if self._recipe.evaluate.keep_students:
                self._keep(row, one, program, trained, score)
            files.write_json(self._score_file(one.id), asdict(score))
            student_training.delete(self._partial, student)

    def _full(self, row: Row) -> Score:
        """The ceiling: a network of the student's kind, trained on all real images as teachers are.

        The teacher itself, where it was trained here and is of that kind.
        """
        spec, started = student_spec(self._recipe, row.student, self._source), time.perf_counter()
        teacher, source = self._teachers[0], self._source
        ours = not self._recipe.teacher.weights and spec == teacher.spec
        # What it is trained with, which an imported teacher need not share.
        normalisation = measure_normalisation(self._recipe.data, source)
        depends = {
            "student": spec.as_dict(),
            "training": _training(self._recipe),
            "normalisation": normalisation.as_dict(),
            "flip": self._recipe.data.flip,
            "seed": self._recipe.seed,
            "data": source.fingerprint,
            "teacher": teacher.hash if ours else None,
        }
        id_ = identity(depends | versions({f"model.{spec.name}": models.version(spec.name)}))
        if not self._score_file(id_).exists():
            variables = teacher.variables
            if not ours:
                partial = self._partial / f"full_{id_}"
                partial.mkdir(exist_ok=True)
                variables, _ = supervised.train(
                    self._recipe, source, spec, partial, "full", self._workdir.log
                )
            logits = teacher_lib.logits_of_examples(
                models.create(spec), variables, normalisation, source.test
            )
            accuracy = float((logits.argmax(-1) == source.test.labels).mean())
            epochs = self._recipe.teacher.epochs
            trained = Trained(
                [(epochs, accuracy)], variables, logits, time.perf_counter() - started
            )
            t = self._recipe.teacher
            line = (
                f"full: {t.epochs} epochs, batch {t.batch_size}, SGD {t.learning_rate:g} "
                f"{t.schedule}, decay {t.weight_decay:g}"
            )
            score = _scored(id_, row, 0, t.learning_rate, line, trained, source)
            files.write_json(self._score_file(id_), asdict(score))
        score = self._read(id_, row)
        self._workdir.log.write("evaluate", self._recipe.teacher.epochs, **asdict(score))
        return score

    def _read(self, id_: str, row: Row) -> Score:
        """A finished score under its row's names; equal images of other names share their ids."""
        return replace(score_of(files.read_json(self._score_file(id_))), **asdict(row))

    def _score_file(self, id_: str) -> Path:
        return self._folder / f"{id_}.json"

    def _weights(self, row: Row, one: _Planned) -> Path:
        name = f"{row.student}-{row.regime}-{row.images}-{one.seed}"
        if row.images == "recovered" and row.ipc != self._sets.ipc:
            name = f"{row.student}-{row.regime}-{row.images}{row.ipc}-{one.seed}"
        if len(self._recipe.evaluate.learning_rates) > 1:
            name += f"-{one.rate:g}"
        return self._partial / _KEPT / name

    def _is_scored(self, row: Row, one: _Planned) -> bool:
        wanted = self._recipe.evaluate.keep_students
        has_weights = not wanted or self._weights(row, one).is_dir()
        return has_weights and self._score_file(one.id).exists()

    def _keep(
        self, row: Row, one: _Planned, program: StudentProgram, trained: Trained, score: Score
    ) -> None:
        teacher = self._teachers[0]
        kept = Teacher(
            program.student,
            trained.variables,
            teacher.normalisation,
            self._source.class_names,
            score.last,
        )
        made_from = _score_inputs(self._recipe, self._source, self._workdir)
        with files.replacing_folder(self._weights(row, one)) as folder:
            teacher_lib.save(folder, kept, {"inputs": made_from, "score": asdict(score)})


def _training(recipe: Recipe) -> dict[str, Any]:
    """Settings of a training on all real images."""
    return {k: v for k, v in asdict(recipe.teacher).items() if k != "others"}


def _norm(recipe: Recipe) -> str:
    """Whose statistics BatchNorm takes, where devices share a batch."""
    return recipe.evaluate.batch_norm if recipe.evaluate.devices_per_student > 1 else "own"


def make_score(
    one: _Planned, row: Row, protocol: Protocol, trained: Trained, source: Source
) -> Score:
    """The score of a student that was trained on a small set."""
    return _scored(one.id, row, one.seed, one.rate, protocol.text(), trained, source)


def _scored(
    id_: str, row: Row, seed: int, rate: float, protocol: str, trained: Trained, source: Source
) -> Score:
    labels, answers = source.test.labels, trained.logits.argmax(-1)
    confusion = metrics.confusion_matrix(answers, labels, len(source.class_names))
    best_epoch, best = max(trained.history, key=lambda look: look[1])
    return Score(
        id=id_,
        student=row.student,
        regime=row.regime,
        images=row.images,
        ipc=row.ipc,
        seed=seed,
        learning_rate=rate,
        protocol=protocol,
        last=trained.history[-1][1],
        best=best,
        best_epoch=best_epoch,
        history=[list(look) for look in trained.history],
        per_class=metrics.or_none(metrics.class_accuracy(confusion)),
        confusion=confusion.tolist() if len(confusion) <= _MANY_CLASSES else [],
        calibration=metrics.calibration_error(trained.logits, labels),
        seconds=round(trained.seconds, 2),
    )
