"""Begins to compile what students need before there is a set to learn from."""

import jax
import numpy as np

from delt_jax.augment.drawing import Drawn, Wanted
from delt_jax.augment.views import Mixed
from delt_jax.core.random_numbers import IMPLEMENTATION
from delt_jax.runtime.programs import Program
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_labels, student_step
from delt_jax.training.student_labels import LabelInputs
from delt_jax.training.student_layout import StudentLayout
from delt_jax.training.student_step import Lesson, Own, Pace


def prepare(layout: StudentLayout) -> None:
    """Begins to compile, in threads, what students of a layout need to learn.

    Args:
      layout: of students whose batches are not shared.
    """
    program = layout.program
    spec, count = program.student, program.count
    keys_of = jax.eval_shape(lambda: jax.random.key(0, impl=IMPLEMENTATION))
    number = jax.ShapeDtypeStruct((), np.int32)
    rate = jax.ShapeDtypeStruct((), np.float32)
    image = (spec.image_size, spec.image_size, spec.channels)
    pixels = jax.ShapeDtypeStruct((count, *image), np.float32 if program.space else np.uint8)
    state = student_step.shapes_of_student(program)
    own = Own(keys_of, rate, number)
    teachers = tuple(teacher_lib.init_shapes(teacher) for teacher in program.teachers)
    labels = jax.ShapeDtypeStruct((count, spec.num_classes), np.float32)
    source = student_labels.label_program(program).source
    inputs = LabelInputs(
        jax.ShapeDtypeStruct((count,), np.int32), labels if source == "fixed" else None
    )
    stored = labels if source == "stored" else None
    for size in dict.fromkeys(len(span) for span in layout.spans):
        positions = jax.ShapeDtypeStruct((size,), np.int32)
        wanted = layout.shapes_of_jobs(Wanted(keys_of, pixels, positions))
        layout.draw(pixels.shape, size).prepare((), wanted, number)
        views = jax.ShapeDtypeStruct((size, *image), np.float32)
        share = jax.ShapeDtypeStruct((size,), np.float32)
        drawn = layout.shapes_of_jobs(Drawn(Mixed(views, share), positions, positions))
        labelled = drawn, layout.shapes_of_jobs(inputs)
        layout.label(pixels.shape, size).prepare((), labelled, (stored, teachers))
        for views_of_call in layout.sizes_of_calls(size):
            batches = -(-views_of_call // layout.batch)
            lesson = Lesson(
                jax.ShapeDtypeStruct((views_of_call, *image), np.float32),
                jax.ShapeDtypeStruct((views_of_call, spec.num_classes), np.float32),
                jax.ShapeDtypeStruct((views_of_call,), np.int32),
            )
            job = layout.shapes_of_jobs((own, lesson))
            pace = Pace(jax.ShapeDtypeStruct((batches,), np.float32), rate, rate)
            learn = layout.learn(views_of_call)
            assert isinstance(learn, Program)
            learn.prepare(layout.shapes_of_jobs(state), job, pace)
