"""The dry run: what would be done, and what it would cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from delt_jax.data import Source
from delt_jax.evaluation import rows
from delt_jax.labels import labelling
from delt_jax.learned import methods
from delt_jax.learned.setups import classes_learned_from, expert_plan
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.recovery import initial_images, schedule
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import execution, memory
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.runtime import devices
from delt_jax.runtime import processes as hosts
from delt_jax.stages import experts, here, learn, pipeline, rank, recover, relabel, room, squeeze
from delt_jax.stages.costs import StageWork, amount, hours, learn_memory, recover_memory
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble, prediction
from delt_jax.teachers.cost import ModelCost, model_cost

_BACKWARD = 3  # FLOPs of a forward and a backward pass, in forward passes


class PlanLine(NamedTuple):
    """A line of the table of costs.

    Attributes:
      stage: its name.
      parameters: of the model that the line is about.
      flops: of the work.
      what: the work, in words.
    """

    stage: str
    parameters: int
    flops: float
    what: str

    def text(self) -> str:
        """The line as printed."""
        parameters, flops = amount(self.parameters, ""), amount(self.flops, "FLOP")
        return f"{self.stage:<9} {parameters:>11} {flops:>12}  {self.what}"


class _Teacher(NamedTuple):
    """A teacher of the run: name in the table, architecture, cost, whether the run trains it."""

    name: str
    spec: ModelSpec
    cost: ModelCost
    is_trained: bool


class _Student(NamedTuple):
    """An architecture of students: cost, rows on synthetic sets, trainings of each row."""

    name: str
    cost: ModelCost
    rows: list[rows.EvalRow]
    per_row: int


def describe(
    recipe: Recipe,
    source: Source,
    workdir: WorkDir,
    names: Sequence[str] = (),
    verify: bool = False,
) -> list[str]:
    """The plan as lines of text; touches nothing.

    Args:
      recipe: the run's.
      source: its data, perhaps only described.
      workdir: may not exist yet.
      names: of the stages to run; all if empty.
      verify: whether every file that is there is read and checked.
    """
    learns = recipe.synthesis == "learn"
    batches = () if learns else recover.schedule_of(recipe, len(source.class_names))
    teachers, students = _teachers(recipe, source), _students(recipe, source)
    labelling_flops = _labelling_flops(recipe, source, teachers)
    work = [
        *_squeeze_lines(recipe, source, teachers),
        *([] if rank.skipped(recipe) else [_rank_line(source, teachers[0])]),
        *(
            _learn_lines(recipe, source)
            if learns
            else [_recover_line(recipe, source, teachers, batches)]
        ),
        *_relabel_lines(recipe, source, teachers, labelling_flops),
        *_evaluate_lines(recipe, source, students, labelling_flops),
    ]
    stored = relabel.plan_of(recipe, source)
    spent = _spent(work, _parts(recipe, source, len(batches), students))
    return [
        *_head_lines(source, workdir),
        "",
        "stages:",
        *_stage_lines(recipe, source, workdir, names, verify),
        "",
        *(learn.words(recipe, source) if learns else schedule_lines(recipe, batches)),
        "",
        f"{'stage':<9} {'parameters':>11} {'FLOPs':>12}  what",
        *(line.text() for line in work),
        "",
        f"device memory of learn: about {amount(memory_of_step(recipe, source), 'B')} on one device"
        if learns
        else memory_line(recipe, [t.spec for t in _in_recovery(recipe, teachers)], batches),
        *([] if stored is None else [relabel.size_line(stored)]),
        room.plan_line(recipe, source),
        "",
        *(here.lines(spent, recipe, here.peak()) if devices.kind() == "cpu" else ()),
        *hours(spent, (devices.kind(), devices.device_count(), hosts.count())),
    ]


def _parts(
    recipe: Recipe, source: Source, num_batches: int, students: Sequence[_Student]
) -> dict[str, StageWork]:
    """Into how many pieces the work of a stage can be divided, and among whom."""
    stored = relabel.plan_of(recipe, source)
    return {
        "rank": StageWork(0, -(-len(source.train) // prediction.BATCH)),
        "recover": StageWork(0, num_batches),
        "experts": StageWork(0, _num_experts(recipe, source)),
        "learn": StageWork(0, recipe.learn.real_batch or 1),
        "relabel": StageWork(0, stored.epochs if stored else 1, "hosts"),
        "evaluate": StageWork(0, sum(s.per_row * len(s.rows) for s in students)),
    }


def _spent(work: Sequence[PlanLine], parts: Mapping[str, StageWork]) -> dict[str, StageWork]:
    """The work of each stage, which can be divided as `parts` has it; else by nothing."""
    spent: dict[str, StageWork] = {}
    for line in work:
        known = spent.get(line.stage, parts.get(line.stage, StageWork(0, 1, "one")))
        spent[line.stage] = replace(known, flops=known.flops + line.flops)
    return spent


def _head_lines(source: Source, workdir: WorkDir) -> list[str]:
    return [
        f"Plan for {workdir.path}",
        f"data: {source.name}, {len(source.train)} training and {len(source.test)} "
        f"{source.scored} of {len(source.class_names)} classes, {source.image_size} px, "
        f"{source.channels} channel(s)",
        f"devices: {hosts.count() * devices.device_count()} x {devices.kind()}",
    ]


def _stage_lines(
    recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str], verify: bool
) -> list[str]:
    """Whether each stage would run, and why."""
    lines, redo = [], False
    stages = pipeline.chosen(names, recipe, workdir)
    for stage in stages:
        if redo and workdir.manifest(stage.manifest) and not stage.skipped(recipe):
            fault = pipeline.damage(stage, workdir, contents=verify)
            why = f": {fault}" if fault else " if an earlier stage's result changes"
            lines.append(f"  {stage.name:<9} would run{why}")
            continue
        needed, why = pipeline.status(stage, recipe, source, workdir, verify)
        redo |= needed
        would = "would run: " if needed else "would be skipped: " * (not stage.skipped(recipe))
        lines.append(f"  {stage.name:<9} {would}{why}")
    return lines + (pipeline.damaged_others(stages, recipe, workdir) if verify else [])


def _teachers(recipe: Recipe, source: Source) -> list[_Teacher]:
    """The first teacher, then the others; none where nothing asks for one."""
    if not recipe.needs_teacher:
        return []

    def teacher(name: str, alone: Recipe) -> _Teacher:
        spec = squeeze.spec_of(alone, source)
        trains = not alone.teacher.weights or alone.teacher.fine_tune
        return _Teacher(name or spec.name, spec, model_cost(spec), trains)

    more = ensemble.recipes(recipe).items()
    return [
        teacher("", recipe),
        *(teacher(f"other teacher {name}", alone) for name, alone in more),
    ]


def _in_recovery(recipe: Recipe, teachers: Sequence[_Teacher]) -> Sequence[_Teacher]:
    """The teachers that images are optimised for: all in a round robin, else the first."""
    return teachers if recipe.recover.round_robin else teachers[:1]


def _students(recipe: Recipe, source: Source) -> list[_Student]:
    e = recipe.evaluate
    if rows.skipped(recipe):
        return []
    asked = [row for row in rows.rows_of(recipe, recipe.ipc) if row.image_set != "full"]
    return [
        _Student(
            name,
            model_cost(rows.student_spec(recipe, name, source)),
            [row for row in asked if row.student == name],
            e.seeds * max(1, len(e.learning_rates)),
        )
        for name in e.students
    ]


def _squeeze_lines(recipe: Recipe, source: Source, teachers: Sequence[_Teacher]) -> list[PlanLine]:
    epochs = recipe.teacher.epochs
    return [
        PlanLine(
            "squeeze",
            teacher.cost.parameters,
            _BACKWARD * teacher.cost.forward_flops * epochs * len(source.train),
            f"{teacher.name}, {epochs} epochs",
        )
        for teacher in teachers
        if teacher.is_trained
    ]


def _rank_line(source: Source, first: _Teacher) -> PlanLine:
    passes = len(source.train)
    what = f"{passes} forward passes"
    return PlanLine("rank", first.cost.parameters, first.cost.forward_flops * passes, what)


def _recover_line(
    recipe: Recipe,
    source: Source,
    teachers: Sequence[_Teacher],
    batches: Sequence[BatchSchedule],
) -> PlanLine:
    """Forward passes that find the start, then iterations; an iteration asks one teacher."""
    r, first = recipe.recover, teachers[0].cost
    scored = initial_images.forward_passes(recipe, source)
    asked = [teacher.cost.forward_flops for teacher in _in_recovery(recipe, teachers)]
    per_iteration = _BACKWARD * sum(asked) / len(asked)
    iterations = schedule.cost(batches, r.iterations).image_iterations
    if r.perturbation:  # of weights, by all teachers for the images of every batch's first round
        climbed = sum(len(b.rounds[0].active) for b in batches if b.rounds)
        iterations += len(asked) * r.perturbation_steps * climbed
    flops = first.forward_flops * scored + per_iteration * iterations
    found = f", {scored} forward passes to find their starts" if scored else ""
    num_images = len(source.class_names) * recipe.ipc
    return PlanLine("recover", first.parameters, flops, f"{num_images} images{found}")


def _num_experts(recipe: Recipe, source: Source) -> int:
    """Experts, which train side by side; 1 where there are none."""
    if experts.skipped(recipe):
        return 1
    return int(learn.setup_of(recipe, source).option("experts"))


def _learn_lines(recipe: Recipe, source: Source) -> list[PlanLine]:
    """All steps of a learned set, with the training of its networks, and of experts before."""
    setup, passes = learn.work(recipe, source)
    cost = model_cost(setup.spec)
    what = f"{setup.num_classes * setup.ipc} images, {setup.steps:,} steps"
    line = PlanLine("learn", cost.parameters, cost.forward_flops * passes, what)
    if experts.skipped(recipe):
        return [line]
    count, plan = int(setup.option("experts")), expert_plan(recipe, setup)
    images = len(classes_learned_from(recipe, source))
    seen = count * plan.epochs * images * (1 + bool(plan.radius))
    size = cost.parameters * count * (4 + plan.epochs * (2 if setup.option("float16") else 4))
    what = f"{count} experts, {plan.epochs} epochs; {amount(size, 'B')} of weights"
    flops = _BACKWARD * cost.forward_flops * seen
    return [PlanLine("experts", cost.parameters, flops, what), line]


def memory_of_step(recipe: Recipe, source: Source) -> int:
    """Bytes that a step of a learned set needs, as an estimate."""
    setup, method = learn.setup_of(recipe, source), methods.find(recipe.learn.method)
    return learn_memory(setup.spec, method.held(setup), method.pool.size)


def _labelling_flops(recipe: Recipe, source: Source, teachers: Sequence[_Teacher]) -> float:
    """FLOPs of labelling one view by all teachers that label."""
    run = teachers if recipe.relabel.ensemble else teachers[:1]
    more = labelling.described(recipe.relabel.teachers, source)
    costs = [*(t.cost for t in run), *(model_cost(teacher.spec) for teacher in more)]
    return sum(cost.forward_flops for cost in costs)


def _relabel_lines(
    recipe: Recipe, source: Source, teachers: Sequence[_Teacher], labelling_flops: float
) -> list[PlanLine]:
    """Labels of views on disk, if any; those of unchanged images cost next to nothing."""
    stored = relabel.plan_of(recipe, source)
    if stored is None:
        return []
    views = stored.epochs * len(source.class_names) * recipe.ipc
    what = f"{stored.epochs} epochs of views, stored"
    return [PlanLine("relabel", teachers[0].cost.parameters, labelling_flops * views, what)]


def _evaluate_lines(
    recipe: Recipe, source: Source, students: Sequence[_Student], labelling_flops: float
) -> list[PlanLine]:
    """For each architecture its trainings on synthetic sets, and the one on all real images."""
    lines, learns = [], recipe.synthesis == "learn"
    for student in students:
        forward = student.cost.forward_flops
        flops, epochs = 0.0, 0
        for row in student.rows:
            protocol = rows.resolve(recipe, source, row)
            epochs = protocol.epochs
            views = epochs * len(source.class_names) * row.ipc
            if row.image_set == "recovered" and learns:
                decoding = learn.decoding_of(recipe)
                views *= decoding.copies if decoding else 1
            evaluations = math.ceil(epochs / protocol.eval_every)
            each = forward * (_BACKWARD * views + evaluations * len(source.test))
            each += labelling_flops * views * (row.regime == "online")
            flops += student.per_row * each
        trainings = student.per_row * len(student.rows)
        what = f"{trainings} trainings of {student.name}, {epochs} epochs each"
        lines.append(PlanLine("evaluate", student.cost.parameters, flops, what))
        if "full" in recipe.evaluate.images:
            flops = _BACKWARD * forward * recipe.teacher.epochs * len(source.train)
            what = f"{student.name} on all real images"
            lines.append(PlanLine("evaluate", student.cost.parameters, flops, what))
    return lines


def schedule_lines(recipe: Recipe, batches: Sequence[BatchSchedule]) -> list[str]:
    """Draws EarlyLate of one class as bars, and says what the whole set costs."""
    r = recipe.recover
    head = f"EarlyLate schedule of a class: ipc {recipe.ipc}, T {r.iterations}, R "
    lines = [
        f"{head}{r.round_iterations or r.iterations}",
        *schedule.chart(recipe.ipc, r.iterations, r.round_iterations),
    ]
    paid = schedule.cost(batches, r.iterations)
    if paid.image_iterations:
        lines.append(
            f"{len(batches)} batch(es) of up to {max(len(b.indices) for b in batches)} images; "
            f"{paid.image_iterations:,} image-iterations = {paid.fraction:.2%} of full "
            f"optimisation ({1 - paid.fraction:.2%} saved)"
        )
    return lines


def memory_line(
    recipe: Recipe, specs: Sequence[ModelSpec], batches: Sequence[BatchSchedule]
) -> str:
    """Peak memory for each number of batches per device, if the device tells how much it has.

    Otherwise an estimate. Counts teachers and images; what extra loss terms need is known only when
    they are prepared.

    Args:
      recipe: the run's.
      specs: of the teachers that images are optimised for.
      batches: of the run.
    """
    if not recipe.recover.iterations:
        return "device memory of recover: a forward pass's, as nothing is optimised"
    asked, head = recipe.recover.batches_per_device, "device memory of recover: about"
    if devices.memory_limit() is None:
        batch = len(memory.largest(batches).indices)
        one = amount(max(recover_memory(recipe, spec, batch) for spec in specs), "B")
        return f"{head} {one} per device for each of the {asked or 1} batch(es) on it at once"
    typed = [replace(spec, dtype=recipe.recover.dtype) for spec in specs]
    settings = step_settings(recipe.recover, recipe.data.flip)
    outline = Outline(settings, tuple(typed), batches)
    sizes = execution.padded_sizes(recipe.recover, outline)
    choices = memory.peak_bytes(settings, typed, batches, sizes=sizes)
    listed = ", ".join(f"{amount(b, 'B')} with {n}" for n, b in choices.items())
    return f"{head} {listed} batch(es) at once; {asked or max(choices)} will be used"
