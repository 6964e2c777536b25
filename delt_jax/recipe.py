"""Every setting of a run: the frozen dataclasses that the stages receive, and their ranges.

The dataclasses are the single list of settings and defaults; `delt_jax.config` makes the
`ConfigDict` that config files fill from them, and turns it back.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from delt_jax.errors import UserError
from delt_jax.schedule import check_rounds


@dataclass(frozen=True)
class DataRecipe:
    """The real images.

    Attributes:
      name: source: "digits", "folder", "npz", "idx" or "tfds" (see docs/data.md).
      path: the folder of images or of idx files, the .npz file, or the TFDS data directory.
      dataset: TFDS builder name, e.g. "cifar10"; unused by other sources.
      classes: classes to take of a folder, npz or tfds source, in label order: a file with one
        per line, or "imagenet", "imagenet100", "imagenet10", "imagenette" or "imagewoof"; empty
        takes all, folders in the order of their names.
      image_size: side in pixels that images are brought to; 0 keeps the source's, and derives
        one of 28, 32, 64, 128 and 224 for a folder.
      channels: 1 or 3; 0 keeps the source's.
      class_names: names in label order, for sources that have none; empty means numbers.
      fit: "resize" (bilinear, the centre), "centre" (the same of 8/7 of the size, as 224 of 256)
        or "pad" (zeros around) to reach image_size.
      mean, std: per-channel normalisation of pixels in [0, 1]; empty means those of the
        training set. An imported teacher brings its own, which then counts.
      flip: whether a mirrored image is still of its class; governs every random flip.
      test_share: of every class, for folders and .npz files without a test split.
      split_seed: of that split.
      unreadable: "stop" at a file that is no image, or "skip" all such files: each is then
        decoded once when the data are opened, which the work directory remembers.
      workers: processes that decode; 0 decodes in this one, -1 takes one per core, 16 at most.
        Results do not depend on it.
      memory_mib: splits whose pixels fit into so much are decoded once and kept in the work
        directory; larger ones are decoded whenever they are read.
      train_images, test_images: published counts, for a dry run where the data are not at hand
        (`classes` must be set); 0 means that they must be.
    """

    name: str = "digits"
    path: str = ""
    dataset: str = ""
    classes: str = ""
    image_size: int = 0
    channels: int = 0
    class_names: tuple[str, ...] = ()
    fit: str = "resize"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flip: bool = True
    test_share: float = 0.2
    split_seed: int = 0
    unreadable: str = "stop"
    workers: int = -1
    memory_mib: int = 640
    train_images: int = 0
    test_images: int = 0


@dataclass(frozen=True)
class TeacherRecipe:
    """The teacher: trained here, or taken from another run.

    Attributes:
      weights: a teacher to use instead of training one: the folder of a finished one
        (``WORKDIR/teacher``) or student, a .safetensors or .pth file of weights for `model`
        named as torchvision or timm name them, or "hf:owner/name" on the Hugging Face Hub; the
        last two need data.mean and data.std.
      head_classes: outputs of a file of weights that are the data's classes, in their order,
        e.g. (0, 217, 482) of ImageNet's; empty: all outputs, in the data's order, or, where
        the data's classes are wnids and the weights have ImageNet's 1000 outputs, theirs.
      model: architecture, a name of `delt_jax.models`; empty derives it from the image size.
      width: channels of the first stage; 0 is the paper's own width.
      epochs, batch_size, learning_rate, momentum, weight_decay: SGD; 0 epochs derives them.
      schedule: "cosine" or "one_cycle" over all steps.
      crop_padding: zero-pad by so many pixels and crop back at random; 0 for none.
    """

    weights: str = ""
    head_classes: tuple[int, ...] = ()
    model: str = "conv3"
    width: int = 0
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    crop_padding: int = 4


@dataclass(frozen=True)
class SelectRecipe:
    """Where each synthetic image starts.

    Attributes:
      rule: "medium" (DELT), "top", "min" or "random" by the teacher's true-class probability.
      start: "real" images chosen by the rule, or Gaussian "noise".
    """

    rule: str = "medium"
    start: str = "real"


@dataclass(frozen=True)
class RecoverRecipe:
    """The optimisation of the images; defaults are DELT's ImageNet-1K values.

    Attributes:
      iterations: T, for the images that join first.
      round_iterations: R; one more group joins every R iterations. 0: no EarlyLate.
      min_iterations: draw a budget per class, a multiple of R in [this, T]; 0: T for all.
      batch_size: images per batch; a batch shares its BN statistics.
      learning_rate: of Adam(0.5, 0.9), cosine to zero.
      bn_weight: weight of the BN matching term.
      first_bn_multiplier: extra weight of the first BN layer.
      curriculum: how the lower bound of the crop's area falls from 1 to min_scale:
        "cosine", "linear" or "step".
      milestone: share of the iterations over which it falls; 0: min_scale throughout.
      min_scale: smallest area of a random crop.
      jitter: largest circular shift in pixels.
      crop: one box, flip and shift per "batch" and step (released code) or per "image".
      antialias: widen the crop's resize filter when shrinking.
      clock: count iterations per "batch" (released code) or per "image" from its own start;
        the count drives learning rate, curriculum and Adam's bias correction.
      storage: "png" (rounded, lossless) or "jpeg75" (truncated, quality 75, as released).
      dtype: of the teacher's activations, "float32" or "bfloat16"; images, BN moments and losses
        stay float32. Where bfloat16 fails its check at the start, float32 is used.
      chunk_steps: iterations per compiled call; 0: 1 on CPU, 50 elsewhere.
      batches_per_device: batches that a device works on at once, each with BN statistics of its
        own; 0: 1 on CPU, elsewhere a power of two that fits its memory.
      save_minutes: minutes between saves of unfinished batches, beside those at round ends.
      profile_chunks: compiled calls that jax.profiler traces into WORKDIR/profile; 0: none.
    """

    iterations: int = 4000
    round_iterations: int = 500
    min_iterations: int = 0
    batch_size: int = 100
    learning_rate: float = 0.25
    bn_weight: float = 0.01
    first_bn_multiplier: float = 10.0
    curriculum: str = "cosine"
    milestone: float = 1.0
    min_scale: float = 0.08
    jitter: int = 0
    crop: str = "batch"
    antialias: bool = True
    clock: str = "batch"
    storage: str = "png"
    dtype: str = "float32"
    chunk_steps: int = 0
    batches_per_device: int = 0
    save_minutes: float = 5.0
    profile_chunks: int = 0


@dataclass(frozen=True)
class ViewRecipe:
    """The views that are labelled and learnt from, and the labels' temperature.

    Attributes:
      min_scale: smallest area of the random resized crop.
      flip: mirror at random (never if data.flip is off).
      mix: "cutmix", "mixup" or "none".
      mix_alpha: parameter of the mix's Beta distribution.
      temperature: T of soft labels and student.
    """

    min_scale: float = 0.25
    flip: bool = True
    mix: str = "cutmix"
    mix_alpha: float = 1.0
    temperature: float = 20.0


@dataclass(frozen=True)
class EvaluateRecipe:
    """Students trained from scratch on the distilled set.

    Attributes:
      students: architectures; an empty name stands for the teacher's.
      width: channels of the students' first stage; 0 is the paper's own.
      images: which sets to train on: "recovered", "random" (real images drawn anew for every
        seed), "selected" (the real images that the rule chose, not optimised).
      regimes: where labels come from: "online" (the teacher labels every view), "fixed" (one
        soft label per image) or "hard".
      seeds: independent students per row; the spread is over these.
      epochs, batch_size, learning_rate, weight_decay: AdamW, half-cosine (ends at half the
        learning rate, as RDED and DELT do); 0 epochs derives them.
      eval_every: epochs between looks at the test set; the last epoch always counts.
      keep_students: also write every student after its last epoch, as a teacher is written, to
        evaluation/students/STUDENT-REGIME-IMAGES-SEED; such a folder can be teacher.weights.
    """

    students: tuple[str, ...] = ("conv3",)
    width: int = 0
    images: tuple[str, ...] = ("recovered", "random", "selected")
    regimes: tuple[str, ...] = ("online", "hard")
    seeds: int = 3
    epochs: int = 300
    batch_size: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    eval_every: int = 30
    keep_students: bool = False


@dataclass(frozen=True)
class ReportRecipe:
    """The report.

    Attributes:
      classes: classes shown on the sheets.
      per_class: images shown of each.
    """

    classes: int = 10
    per_class: int = 10


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
      seed: root of all draws.
      ipc: synthetic images per class; 0 derives it from the data (see `delt_jax.derive`).
      tensorboard: also write the log as TensorBoard events.
      data, teacher, select, recover: settings of these stages.
      relabel: views and temperature, wherever the teacher labels views.
      evaluate, report: settings of these stages.
    """

    seed: int = 0
    ipc: int = 10
    tensorboard: bool = False
    data: DataRecipe = field(default_factory=DataRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    select: SelectRecipe = field(default_factory=SelectRecipe)
    recover: RecoverRecipe = field(default_factory=RecoverRecipe)
    relabel: ViewRecipe = field(default_factory=ViewRecipe)
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)
    report: ReportRecipe = field(default_factory=ReportRecipe)


_CHOICES = {
    "data.name": ("digits", "folder", "npz", "idx", "tfds"),
    "data.channels": (0, 1, 3),
    "data.fit": ("resize", "centre", "pad"),
    "data.unreadable": ("stop", "skip"),
    "teacher.schedule": ("cosine", "one_cycle"),
    "select.rule": ("medium", "top", "min", "random"),
    "select.start": ("real", "noise"),
    "recover.curriculum": ("cosine", "linear", "step"),
    "recover.crop": ("batch", "image"),
    "recover.clock": ("batch", "image"),
    "recover.storage": ("png", "jpeg75"),
    "recover.dtype": ("float32", "bfloat16"),
    "relabel.mix": ("cutmix", "mixup", "none"),
}
_CHOICES_OF_MANY = {
    "evaluate.images": ("recovered", "random", "selected"),
    "evaluate.regimes": ("online", "fixed", "hard"),
}
# Lower bounds, inclusive; a setting that is absent here may be any value of its type.
_AT_LEAST = {
    "seed": 0,
    "ipc": 0,
    "data.image_size": 0,
    "data.split_seed": 0,
    "data.workers": -1,
    "data.memory_mib": 0,
    "data.train_images": 0,
    "data.test_images": 0,
    "teacher.width": 0,
    "teacher.epochs": 0,
    "teacher.batch_size": 2,
    "teacher.momentum": 0,
    "teacher.weight_decay": 0,
    "teacher.crop_padding": 0,
    "recover.iterations": 1,
    "recover.round_iterations": 0,
    "recover.min_iterations": 0,
    "recover.batch_size": 1,
    "recover.bn_weight": 0,
    "recover.first_bn_multiplier": 0,
    "recover.milestone": 0,
    "recover.jitter": 0,
    "recover.chunk_steps": 0,
    "recover.batches_per_device": 0,
    "recover.profile_chunks": 0,
    "evaluate.width": 0,
    "evaluate.seeds": 1,
    "evaluate.epochs": 0,
    "evaluate.batch_size": 2,
    "evaluate.weight_decay": 0,
    "evaluate.eval_every": 1,
    "report.classes": 1,
    "report.per_class": 1,
}
_ABOVE_ZERO = (
    "teacher.learning_rate",
    "recover.learning_rate",
    "recover.save_minutes",
    "relabel.mix_alpha",
    "relabel.temperature",
    "evaluate.learning_rate",
)
_SHARES = ("recover.min_scale", "relabel.min_scale")  # in (0, 1]


def flatten(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as one dict of dotted names, e.g. {"recover.iterations": 4000}."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat


def validate(recipe: Recipe) -> None:
    """Checks what can be checked without data: ranges, choices and combinations."""
    flat = flatten(recipe)
    for name, value in flat.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} must be finite, not {number}.")
    for name, choices in _CHOICES.items():
        if flat[name] not in choices:
            listed = ", ".join(map(repr, choices))
            raise UserError(f"{name} must be one of {listed}, not {flat[name]!r}.")
    for name, choices in _CHOICES_OF_MANY.items():
        values = flat[name]
        wrong = [v for v in values if v not in choices]
        if wrong or not values:
            listed = ", ".join(map(repr, choices))
            raise UserError(f"{name} must hold some of {listed}; got {values!r}.")
    for name, low in _AT_LEAST.items():
        if flat[name] < low:
            raise UserError(f"{name} must be at least {low}, not {flat[name]}.")
    for name in _ABOVE_ZERO:
        if flat[name] <= 0:
            raise UserError(f"{name} must be above 0, not {flat[name]}.")
    for name in _SHARES:
        if not 0 < flat[name] <= 1:
            raise UserError(f"{name} must be in (0, 1], not {flat[name]}.")
    if not 0 < recipe.data.test_share < 1:
        raise UserError(f"data.test_share must be in (0, 1), not {recipe.data.test_share}.")
    if len(recipe.data.mean) != len(recipe.data.std):
        raise UserError(
            f"data.mean and data.std need one value per channel each, but have "
            f"{len(recipe.data.mean)} and {len(recipe.data.std)}."
        )
    if any(s <= 0 for s in recipe.data.std):
        raise UserError(f"data.std must be above 0, not {recipe.data.std}.")
    heads = recipe.teacher.head_classes
    if heads and not recipe.teacher.weights:
        raise UserError(
            "teacher.head_classes picks outputs of imported weights, but teacher.weights is empty; "
            "set both or neither."
        )
    twice = sorted({c for c in heads if heads.count(c) > 1})
    if twice:
        raise UserError(
            f"teacher.head_classes lists {', '.join(map(str, twice))} more than once; every class "
            f"of the data needs an output of its own."
        )
    if not recipe.evaluate.students:
        raise UserError("evaluate.students is empty; name at least one architecture.")
    r = recipe.recover
    check_rounds(r.iterations, r.round_iterations)
    if r.min_iterations and not r.round_iterations:
        raise UserError("recover.min_iterations needs recover.round_iterations above 0.")
    if r.milestone > 1:
        raise UserError(f"recover.milestone is a share of the iterations, not {r.milestone}.")
    if r.min_iterations and not r.round_iterations <= r.min_iterations <= r.iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must lie between "
            f"recover.round_iterations ({r.round_iterations}) and recover.iterations "
            f"({r.iterations})."
        )
    if r.min_iterations and r.min_iterations % r.round_iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must be a multiple of "
            f"recover.round_iterations ({r.round_iterations})."
        )
