"""Every setting of a run: the frozen dataclasses that the stages receive.

The dataclasses are the single list of settings and defaults; `delt_jax.config` makes the
`ConfigDict` that config files fill from them, and turns it back.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


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
      split_seed: of that split, and of the validation split.
      validation_share: of every class of the training images, to be held out: they take the place
        of the test images, and no stage sees the one in training or the other at all. For tuning
        (see docs/tuning.md); 0 for none. An imported teacher must not have seen them either.
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
    validation_share: float = 0.0
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
      others: further teachers of the run, trained as this one is: architectures "NAME" or
        "NAME:WIDTH", of which one may be named again for another seed; or folders of finished
        ones. `relabel.ensemble` lets them label.
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
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectRecipe:
    """Where each synthetic image starts.

    Attributes:
      rule: "medium" (DELT), "top", "min" or "random" by the teacher's true-class probability.
      start: "real" images chosen by the rule, Gaussian "noise", or "rded": mosaics of the crops of
        real images that the teacher is surest of (RDED).
      candidates: real images per class that are drawn for "rded"; all where there are fewer.
      crops: of each of these, the best of which counts.
      mosaic: crops along a side of an "rded" image; 0: 2 from 128 px on, else 1, as published.
    """

    rule: str = "medium"
    start: str = "real"
    candidates: int = 300
    crops: int = 5
    mosaic: int = 0


@dataclass(frozen=True)
class RecoverRecipe:
    """The optimisation of the images; defaults are DELT's ImageNet-1K values.

    Attributes:
      iterations: T, for the images that join first; 0 optimises nothing, so that the distilled
        set is its start.
      round_iterations: R; one more group joins every R iterations. 0: no EarlyLate.
      min_iterations: draw a budget per class, a multiple of R in [this, T]; 0: T for all.
      batch_size: images per batch; a batch shares its BN statistics.
      layout: "class_major": all images of a class side by side (DELT), or "one_per_class": a
        batch has one image of each of its classes (SRe2L, CDA).
      learning_rate: of Adam(0.5, 0.9), cosine to zero.
      bn_weight: weight of the BN matching term.
      bn_variance_weight: extra weight of the variances in it, in every layer (DWA).
      first_bn_multiplier: extra weight of the first BN layer.
      terms: further terms of the objective, each "name=weight" or a name alone for weight 1; names
        are those of the files in `delt_jax.terms`.
      statistics_momentum: weight of the average so far in the running statistics of a batch that
        the terms global_statistics and class_statistics match.
      conv_drop: probability that these leave a convolution out of an iteration (G-VBSM).
      round_robin: iteration t is guided by teacher t mod K of the run's K teachers (G-VBSM, EDC).
      perturbation: rho, how far each batch's own copy of the teacher is moved up the gradient of
        the cross-entropy of the batch's start images (DWA); 0: all share the teacher as it is.
      perturbation_steps: K steps of length rho / K.
      residual: share of its start that is mixed into every image where a later one of the
        `residual_rounds` begins (FADRM); 0 for none.
      residual_rounds: blocks of as equal a length as can be that the iterations are parted into;
        Adam begins anew in each.
      curriculum: how the lower bound of the crop's area falls from 1 to min_scale:
        "cosine", "linear" or "step".
      milestone: share of the iterations over which it falls; 0: min_scale throughout.
      min_scale: smallest area of a random crop.
      jitter: largest circular shift in pixels; -1 takes a seventh of the images' side, which is
        SRe2L's 32 of 224 px and 4 of 32.
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
    layout: str = "class_major"
    learning_rate: float = 0.25
    bn_weight: float = 0.01
    bn_variance_weight: float = 1.0
    first_bn_multiplier: float = 10.0
    terms: tuple[str, ...] = ()
    statistics_momentum: float = 0.8
    conv_drop: float = 0.0
    round_robin: bool = False
    perturbation: float = 0.0
    perturbation_steps: int = 12
    residual: float = 0.0
    residual_rounds: int = 4
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
class RelabelRecipe:
    """The views that are labelled and learnt from, and the soft labels that are stored.

    None stands for what evaluate.protocol says.

    Attributes:
      rand_augment: timm's string of RandAugment, e.g. "rand-m6-n2-mstd1.0"; empty for none.
      shuffle: cut views into so many strips each way and shuffle them (RDED); 1 for none.
      min_scale: smallest area of the random resized crop.
      flip: mirror at random (never if data.flip is off).
      mix: "cutmix", "mixup" or "none".
      mix_alpha: parameter of the mix's Beta distribution.
      temperature: T of soft labels and student.
      teachers: folders of more teachers, whose logits are averaged with the first one's.
      ensemble: average also the logits of the run's other teachers (`teacher.others`).
      stored_epochs: epochs of views whose labels are stored for the "stored" regime, used again in
        turn; 0: as many as a student trains.
      top_k: stored outputs per label; the other classes share what is left. 0 stores all.
      form: of stored labels, float16 "logits" or "probabilities" at the temperature.
    """

    rand_augment: str | None = None
    shuffle: int | None = None
    min_scale: float | None = None
    flip: bool = True
    mix: str | None = None
    mix_alpha: float | None = None
    temperature: float | None = None
    teachers: tuple[str, ...] = ()
    ensemble: bool = False
    stored_epochs: int = 0
    top_k: int = 0
    form: str = "logits"


@dataclass(frozen=True)
class EvaluateRecipe:
    """Students trained from scratch on the distilled set.

    None stands for what the protocol says.

    Attributes:
      protocol: "delt", "sre2l", "rded" or "delt_jax" (see docs/evaluation.md).
      students: architectures; an empty name stands for the teacher's.
      width: channels of the students' first stage; 0 is the paper's own.
      images: which sets to train on: "recovered"; as baselines of equal IPC "random" (real images
        drawn anew for every seed), "selected" (the real images that the rule chose, not
        optimised), "herding" and "kmeans" (coresets by the teacher's features); and "full", all
        real images with hard labels as the teacher was trained, the ceiling.
      regimes: where labels come from: "online" (the teacher labels every view), "stored" (it
        labelled some epochs of views before), "fixed" (one soft label per image) or "hard".
      smaller: also train on the first so many recovered images of every class, e.g. (1, 5).
      plain: also train with hard labels on images as they are, without augmentation: what the
        augmentation robustness score needs.
      seeds: independent students per row; the spread is over these.
      learning_rates: peaks to try; the best on the test set counts, as DD-Ranking does, and is
        named. Empty: the protocol's.
      epochs, batch_size, weight_decay: of training; 0 epochs derives them from the data.
      loss: "kl" or "mse" of soft labels.
      hard_weight: of a cross-entropy with the image's own class beside the soft label's loss.
      schedule: "cosine" to zero or "half_cosine" (ends at half the rate, as RDED and DELT do).
      ema: decay of the averaged weights that are then measured; 0 measures the last ones.
      accumulate: batches per gradient step.
      eval_every: epochs between looks at the test set; the last epoch always counts.
      dtype: of the students' activations, "float32" or "bfloat16".
      seeds_at_once: students of a row trained together on a device; 0: all of them where they are
        small and the device is an accelerator, else 1.
      devices_per_student: devices that share a student's batches; gradients are averaged.
      batch_norm: of these devices, each its "own" statistics, or "shared" ones.
      save_minutes: minutes between saves of unfinished students.
      scores_folder: of finished scores, which runs in other work directories may share, so that
        baselines are trained once; empty: WORKDIR/scores.
      keep_students: also write every student after its last epoch, as a teacher is written, to
        evaluation/students/STUDENT-REGIME-IMAGES-SEED; such a folder can be teacher.weights.
    """

    protocol: str = "delt"
    students: tuple[str, ...] = ("conv3",)
    width: int = 0
    images: tuple[str, ...] = ("recovered", "random", "selected")
    regimes: tuple[str, ...] = ("online", "hard")
    smaller: tuple[int, ...] = ()
    plain: bool = False
    seeds: int = 3
    learning_rates: tuple[float, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    loss: str | None = None
    hard_weight: float | None = None
    schedule: str | None = None
    ema: float | None = None
    accumulate: int | None = None
    eval_every: int | None = None
    dtype: str = "float32"
    seeds_at_once: int = 0
    devices_per_student: int = 1
    batch_norm: str = "own"
    save_minutes: float = 5.0
    scores_folder: str = ""
    keep_students: bool = False


@dataclass(frozen=True)
class ReportRecipe:
    """The report.

    Attributes:
      classes: classes shown on the sheets.
      per_class: images shown of each.
      nearest: also find the real training image nearest to each synthetic one; reads the training
        set once and asks the teacher about all of it, as the rank stage does.
    """

    classes: int = 10
    per_class: int = 10
    nearest: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
      seed: root of all draws.
      ipc: synthetic images per class; 0 derives it from the data (see `delt_jax.config.derive`).
      tensorboard: also write the log as TensorBoard events.
      data, teacher, select, recover: settings of these stages.
      relabel: views and temperature, wherever the teacher labels views; stored labels.
      evaluate, report: settings of these stages.
    """

    seed: int = 0
    ipc: int = 10
    tensorboard: bool = False
    data: DataRecipe = field(default_factory=DataRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    select: SelectRecipe = field(default_factory=SelectRecipe)
    recover: RecoverRecipe = field(default_factory=RecoverRecipe)
    relabel: RelabelRecipe = field(default_factory=RelabelRecipe)
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)
    report: ReportRecipe = field(default_factory=ReportRecipe)


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
