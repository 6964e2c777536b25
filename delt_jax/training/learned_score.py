"""Scores of a set of float images as it is: for validation while it is learned."""

from dataclasses import dataclass, replace

import numpy as np

from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import Examples
from delt_jax.models import ModelSpec
from delt_jax.store import files
from delt_jax.training import student_loop
from delt_jax.training.protocol import Protocol
from delt_jax.training.student_loop import Saving, Student, StudentTask
from delt_jax.training.student_program import LabelledImages, StudentProgram


@dataclass(frozen=True)
class Exam:
    """Students and what they are asked.

    Attributes:
      spec: architecture of the students.
      protocol: how they train.
      preprocessing: of the images that they learn from, which all others go through.
      test: pixels on which accuracy is measured.
      regime: "learned" or "hard".
      seed: of the run.
      students: how many; each has its number besides the seed.
    """

    spec: ModelSpec
    protocol: Protocol
    preprocessing: Preprocessing
    test: Examples
    regime: str = "learned"
    seed: int = 0
    students: int = 1


def program_of(exam: Exam, count: int) -> StudentProgram:
    """What is compiled for students who learn from `count` images."""
    return StudentProgram(
        student=exam.spec,
        teachers=(),
        protocol=replace(exam.protocol, learning_rate=1.0),  # every student has its own
        regime=exam.regime,
        normalisation=exam.preprocessing.normalisation,
        teacher_normalisations=(),
        count=count,
        group_size=exam.protocol.batch_size,
        space=exam.preprocessing.space,
    )


def accuracies(exam: Exam, images: LabelledImages, saving: Saving | None = None) -> np.ndarray:
    """Trains students from scratch, one after another, and tests each after its last step.

    Args:
      exam: who trains, how, and on what they are tested.
      images: what they learn, expanded where a stored image is several.
      saving: where and when unfinished students are saved, to go on from there when the same is
        asked again; None saves none.

    Returns:
      float64 [students], in [0, 1].

    Raises:
      UserError: if the protocol cannot train on float images.
      Stopped: after a signal, at the end of an epoch, once students are saved.
    """
    program = program_of(exam, len(images.pixels))
    student_loop.check(program)
    task = StudentTask(program, (), None, exam.test, exam.preprocessing)
    content = files.content_hash(
        *(np.asarray(part).tobytes() for part in images if part is not None)
    )
    students = [
        Student(
            f"validation-{content}-{number}",
            (exam.seed, number),
            exam.protocol.learning_rate,
            images,
        )
        for number in range(exam.students)
    ]
    trained = student_loop.train(task, students, 1, saving, lambda epochs, loss: None)
    scores = {position: one.history[-1][1] for position, one in trained}
    if saving is not None:
        for student in students:
            student_loop.delete(saving.folder, student)
    return np.array([scores[position] for position in range(exam.students)])
