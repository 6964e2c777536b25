"""Names what went wrong without an error: teachers and students at chance, lost pixels and labels.

Every function returns sentences for the user, none where all is well. Stages keep them in their
manifests under "warnings"; log, report and summary.json show them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, bdtrc, softmax

from delt_jax.core.progress import say
from delt_jax.data import Normalisation, Source, batches
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.teachers.teacher import Teacher

# An accuracy is no better than chance if guessing reaches it in more than one of 100 trials.
_LEVEL = 0.01
_WEAK = 0.5  # of the way from chance to all right, below which a teacher is weak
_FAR_MEAN = 0.25  # between constants and data; ImageNet's mean is 0.06 from CIFAR's
_FAR_STD = 3.0  # times
_SAMPLE = 500  # training images, or distilled ones, that are looked at
_SATURATED = 0.5  # of the way from the start's share of pixels at 0 or 255 to all of them
_ALIKE = 1e-4  # of 1 / classes, by which soft labels differ that say something


def told(sentences: Sequence[str]) -> list[str]:
    """Says each sentence in the log, and returns them for the stage's manifest."""
    for sentence in sentences:
        say(f"  warning: {sentence}")
    return list(sentences)


def chance(labels: np.ndarray, num_classes: int) -> float:
    """Accuracy of the best answer that does not look: the share of the largest class."""
    return float(np.bincount(labels, minlength=num_classes).max() / len(labels))


def is_chance(accuracy: float, images: int, by_chance: float) -> bool:
    """Whether an accuracy on so many images is no better than chance, by its sampling error.

    A binomial test on one side, at the level of 1 %; few images that are all right pass it.

    Args:
      accuracy: in [0, 1].
      images: that it was measured on.
      by_chance: accuracy of guessing, in (0, 1].
    """
    hits = round(accuracy * images)
    if hits == images and by_chance < 1:
        return False
    return bool(bdtrc(hits - 1, images, min(by_chance, 1.0)) > _LEVEL)


def of_teacher(teacher: Teacher, source: Source) -> list[str]:
    """Whether a teacher is at chance level, or weak: nearer to chance than to all right.

    Nothing is said of one whose accuracy is not known.
    """
    if teacher.accuracy is None or not len(source.test):
        return []
    by_chance = chance(source.test.labels, len(source.class_names))
    count, accuracy = len(source.test), teacher.accuracy
    head = f"The teacher {teacher.spec.name} gets {accuracy:.1%} of the {count} {source.scored}"
    if is_chance(accuracy, count, by_chance):
        return [
            f"{head} right, no better than chance ({by_chance:.1%}), so what is made with it means "
            f"nothing; check data.mean, data.std and the labels, or train it longer."
        ]
    if accuracy < by_chance + _WEAK * (1 - by_chance):
        return [
            f"{head} right, which is nearer to chance ({by_chance:.1%}) than to all, so images and "
            f"labels made with it are weak; raise teacher.epochs, begin with pretrained weights "
            f"(teacher.fine_tune), or take a better one."
        ]
    return []


def of_constants(normalisation: Normalisation, source: Source) -> list[str]:
    """Whether mean and std lie implausibly far from those of a sample of the training images."""
    if not len(source.train):
        return []
    count = min(_SAMPLE, len(source.train))
    chosen = np.unique(np.linspace(0, len(source.train) - 1, count).astype(int))
    stacks = [np.asarray(images) for _, images in batches(source.train, _SAMPLE, chosen)]
    unit = np.concatenate(stacks).reshape(-1, source.channels) / 255.0
    mean, std = unit.mean(0), unit.std(0)
    ratio = np.asarray(normalisation.std) / np.maximum(std, 1 / 255)
    is_far = (np.abs(mean - normalisation.mean) > _FAR_MEAN).any()
    if not is_far and not ((ratio > _FAR_STD) | (ratio < 1 / _FAR_STD)).any():
        return []

    def words(values):
        return ", ".join(f"{value:.3g}" for value in values)

    return [
        f"Images are normalised with mean {words(normalisation.mean)} and std "
        f"{words(normalisation.std)}, but those of {source.name} have mean {words(mean)} and std "
        f"{words(std)}; see that the constants are those the teacher was trained with."
    ]


def sampled(count: int) -> np.ndarray:
    """Indices of some of `count` distilled images, evenly spread; all where there are few."""
    return np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int))


def of_images(recovered: np.ndarray, starts: np.ndarray) -> list[str]:
    """Whether optimisation drove pixels to the ends of their range, or moved none.

    Args:
      recovered, starts: uint8 [N, S, S, C], the same images after and before.
    """

    def share(pixels):
        return float(((pixels == 0) | (pixels == 255)).mean())

    before, after = share(starts), share(recovered)
    if (recovered == starts).all() and before < 1:
        return [
            "Optimisation has not changed a pixel of the images it started from; raise "
            "recover.learning_rate."
        ]
    if after > before + _SATURATED * (1 - before):
        return [
            f"{after:.0%} of the recovered pixels are saturated (0 or 255), of the images they "
            f"started from {before:.0%} were; lower recover.learning_rate."
        ]
    return []


def of_losses(curves: Sequence[np.ndarray]) -> list[str]:
    """Whether the loss of a batch was not finite in an iteration.

    Args:
      curves: float [iterations] of each batch.
    """
    lost = sum(not np.isfinite(curve).all() for curve in curves)
    if not lost:
        return []
    return [
        f"The loss of {lost} of {len(curves)} batches was not finite in some iterations; lower "
        f"recover.learning_rate or the weights of its terms."
    ]


def of_probabilities(probabilities: np.ndarray) -> list[str]:
    """Whether the teacher's probabilities of the true classes, float [N], are all finite."""
    lost = int((~np.isfinite(probabilities)).sum())
    if not lost:
        return []
    return [
        f"The teacher's answers to {lost} of {len(probabilities)} training images are not finite; "
        f"take another teacher."
    ]


def of_labels(logits: np.ndarray, labels: np.ndarray, temperature: float) -> list[str]:
    """Whether soft labels are finite, differ between images, and know the images' classes.

    Args:
      logits: float [N, classes].
      labels: int [N], the images' classes.
      temperature: by which the logits are divided.
    """
    lost = int((~np.isfinite(logits).all(1)).sum())
    if lost:
        return [
            f"The soft labels of {lost} of {len(logits)} images are not finite; take another "
            f"teacher."
        ]
    found = []
    soft = softmax(logits.astype(np.float64) / temperature, axis=1)
    if len(soft) > 1 and np.ptp(soft, axis=0).max() * soft.shape[1] < _ALIKE:
        found.append(
            f"The soft labels of all images are the same at temperature {temperature:g}, so they "
            f"teach nothing; lower relabel.temperature or take a better teacher."
        )
    agreement = float((logits.argmax(1) == labels).mean())
    by_chance = chance(labels, logits.shape[1])
    if is_chance(agreement, len(labels), by_chance):
        found.append(
            f"The teacher takes {agreement:.1%} of the {len(labels)} distilled images for their "
            f"classes, no better than chance ({by_chance:.1%})."
        )
    return found


def of_rows(rows: Sequence[ScoreRow], source: Source) -> list[str]:
    """Which rows of students diverged, or are no better than chance in the mean of their seeds."""
    by_chance, count = chance(source.test.labels, len(source.class_names)), len(source.test)
    found = []
    for row in rows:
        name = f"{row.student}, {row.regime}, {row.image_set} {row.ipc or 'all'}"
        spread = f" ± {100 * row.last_std:.1f} %" if row.seeds > 1 else " % (1 seed)"
        text = f"{100 * row.last_mean:.1f}{spread}"
        if not np.isfinite(row.calibration):
            found.append(
                f"{name}: the outputs of students are not finite ({text}), their training "
                f"diverged; lower evaluate.learning_rates or evaluate.weight_decay."
            )
        elif is_chance(row.last_mean, count, by_chance):
            found.append(
                f"{name}: {text} of the {count} {source.scored} is no better than chance "
                f"({by_chance:.1%}), so the students have learnt nothing."
            )
    return found


def of_students(teachers: Sequence[Teacher], rows: Sequence[ScoreRow], source: Source) -> list[str]:
    """What rows say of students (see `of_rows`), and whether the first teacher is below their best.

    A student of all real images is their ceiling. Both are measured on the same images; the teacher
    is below if one as good as the student would rarely have so few of them right.
    """
    found, finite = of_rows(rows, source), [row for row in rows if np.isfinite(row.last_mean)]
    if not teachers or teachers[0].accuracy is None or not finite:
        return found
    teacher, accuracy = teachers[0], teachers[0].accuracy
    best, count = max(finite, key=lambda row: row.last_mean), len(source.test)
    hits = round(accuracy * count)
    if bdtr(hits, count, min(best.last_mean, 1.0)) > _LEVEL:
        return found
    which = f"{best.image_set} {best.ipc} with {best.regime} labels"
    of_all = "all real images, the ceiling of students" if best.image_set == "full" else which
    return [
        *found,
        f"The teacher {teacher.spec.name} gets {accuracy:.1%} of the {count} "
        f"{source.scored} right, fewer than a student reaches ({best.student}, {of_all}: "
        f"{best.last_mean:.1%}), so it holds students back; train it longer or take a better one.",
    ]
