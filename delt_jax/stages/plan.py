"""The dry run: what would be done, and what it would cost."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax

from delt_jax.data import Source
from delt_jax.evaluation import rows
from delt_jax.labels import label_store, labelling
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.recovery import initial_images as start
from delt_jax.recovery import schedule
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import memory
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.runtime import devices as parallel
from delt_jax.stages import pipeline, recover, relabel, squeeze
from delt_jax.stages.costs import amount, hours, model_cost, recover_memory
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble as others


def describe(recipe: Recipe, source: Source, workdir: WorkDir, names=()) -> list[str]:
    """The plan as lines of text; touches nothing."""
    num_classes = len(source.class_names)
    images = num_classes * recipe.ipc
    r, e = recipe.recover, recipe.evaluate
    batches = recover.schedule_of(recipe, num_classes)
    paid = schedule.cost(batches, r.iterations)
    spec = squeeze.spec_of(recipe, source)
    model = model_cost(spec)
    lines = [
        f"Plan for {workdir.path}",
        f"data: {source.name}, {len(source.train)} training and {len(source.test)} "
        f"{source.scored} of {num_classes} classes, {source.image_size} px, {source.channels} "
        f"channel(s)",
        f"devices: {parallel.device_count()} x {jax.local_devices()[0].device_kind}",
        "",
        "stages:",
    ]
    redo = False
    for stage in pipeline.chosen(names, recipe, workdir):
        if redo and workdir.manifest(stage.manifest):
            lines.append(f"  {stage.name:<9} would run if an earlier stage's result changes")
            continue
        needed, why = pipeline.status(stage, recipe, source, workdir)
        redo |= needed
        lines.append(f"  {stage.name:<9} {'would run' if needed else 'would be skipped'}: {why}")
    lines += [
        "",
        *schedule_lines(recipe, batches),
        "",
        f"{'stage':<9} {'parameters':>11} {'FLOPs':>12}  what",
    ]

    spent: dict[str, float] = {}

    def row(stage, cost, flops, what):
        spent[stage] = spent.get(stage, 0.0) + flops
        parameters = amount(cost.parameters, "") if cost else ""
        lines.append(f"{stage:<9} {parameters:>11} {amount(flops, 'FLOP'):>12}  {what}")

    f = model.forward_flops
    further = [
        (f"other teacher {name}", alone, model_cost(squeeze.spec_of(alone, source)))
        for name, alone in others.recipes(recipe).items()
    ]
    seen = recipe.teacher.epochs * len(source.train)
    for name, alone, cost in [(spec.name, recipe, model), *further]:
        if not alone.teacher.weights:
            what = f"{name}, {recipe.teacher.epochs} epochs"
            row("squeeze", cost, 3 * cost.forward_flops * seen, what)
    row("rank", model, f * len(source.train), f"{len(source.train)} forward passes")
    scored = start.forward_passes(recipe, source)
    found = f", {scored} forward passes to find their starts" if scored else ""
    turns = [model, *([cost for _, _, cost in further] if r.round_robin else [])]
    guided = 3 * sum(cost.forward_flops for cost in turns) / len(turns)
    climbed = sum(len(b.rounds[0].active) for b in batches if b.rounds) if r.perturbation else 0
    passes = paid.image_iterations + len(turns) * r.perturbation_steps * climbed
    row("recover", model, f * scored + guided * passes, f"{images} images{found}")
    labelled = relabel.plan_of(recipe, source)
    more = labelling.described(recipe.relabel.teachers, source)
    judging = [model, *(model_cost(teacher.spec) for teacher in more)]
    judging += [cost for _, _, cost in further] if recipe.relabel.ensemble else []
    judged = sum(cost.forward_flops for cost in judging)
    if labelled is not None:
        what = f"{labelled.epochs} epochs of views, stored"
        row("relabel", model, judged * labelled.epochs * images, what)
    kept = 0
    for name in e.students:
        student = model_cost(rows.student_spec(recipe, name, source))
        each = e.seeds * max(1, len(e.learning_rates))
        flops, trainings, epochs = 0.0, 0, 0
        for line in rows.rows_of(recipe, recipe.ipc):
            if line.student != name or line.images == "full":
                continue
            protocol = rows.settle(recipe, source, line)
            seen, epochs = protocol.epochs * num_classes * line.ipc, protocol.epochs
            looks = math.ceil(protocol.epochs / protocol.eval_every)
            flops += each * student.forward_flops * (3 * seen + looks * len(source.test))
            flops += each * judged * seen * (line.regime == "online")
            trainings += each
        row("evaluate", student, flops, f"{trainings} trainings of {name}, {epochs} epochs each")
        kept += 4 * student.parameters * trainings * e.keep_students
        if "full" in e.images:
            seen = recipe.teacher.epochs * len(source.train)
            row("evaluate", student, 3 * student.forward_flops * seen, f"{name} on all real images")
    pixels = source.image_size**2 * source.channels
    disk = (
        images * (pixels + 500)  # PNGs of optimised pixels hardly compress
        + 16 * len(batches) * r.iterations  # losses
        + 4 * images * num_classes  # soft labels of images as they are
        + (0 if labelled is None else label_store.stored_bytes(labelled))
        + 4 * (model.parameters + sum(cost.parameters for _, _, cost in further))
        + kept
        + 60 * len(source.train)  # ranking
    )
    lines += [
        "",
        memory_line(recipe, [spec, *_in_turn(recipe, source)], batches),
        *([] if labelled is None else [relabel.size_line(labelled)]),
        f"disk: about {amount(disk, 'B')}",
        "",
        *hours(spent),
    ]
    return lines


def schedule_lines(recipe: Recipe, batches: Sequence[BatchSchedule]) -> list[str]:
    """EarlyLate of one class as bars, and what the whole set costs."""
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


def _in_turn(recipe: Recipe, source: Source) -> list[ModelSpec]:
    """The further teachers that take turns in recovery."""
    if not recipe.recover.round_robin:
        return []
    return [squeeze.spec_of(alone, source) for alone in others.recipes(recipe).values()]


def memory_line(
    recipe: Recipe, specs: Sequence[ModelSpec], batches: Sequence[BatchSchedule]
) -> str:
    """Peak memory by batches on a device, where it says how much it has; else an estimate.

    Of the teachers that take turns; what further terms hold is known only when they are made.
    """
    if not recipe.recover.iterations:
        return "device memory of recover: a forward pass's, as nothing is optimised"
    asked, head = recipe.recover.batches_per_device, "device memory of recover: about"
    if parallel.memory_limit() is None:
        batch = len(memory.largest(batches).indices)
        one = amount(max(recover_memory(recipe, spec, batch) for spec in specs), "B")
        return f"{head} {one} per device for each of the {asked or 1} batch(es) on it at once"
    typed = [replace(spec, dtype=recipe.recover.dtype) for spec in specs]
    settings = step_settings(recipe.recover, recipe.data.flip)
    choices = memory.peak_bytes(settings, typed, batches)
    listed = ", ".join(f"{amount(b, 'B')} with {n}" for n, b in choices.items())
    return f"{head} {listed} batch(es) at once; {asked or max(choices)} will be used"
