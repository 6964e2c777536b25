"""Settings of labels, students and the report."""

from dataclasses import dataclass

from delt_jax.recipe.fields import above, at_least, one_of, setting, some_of, within

_VIEWS = ("labels", "scores")


@dataclass(frozen=True)
class RelabelRecipe:
    """The views that are labelled and learnt from, and the labels that are stored.

    None stands for what evaluate.protocol says.
    """

    min_scale: float | None = setting(
        None,
        "Smallest area of a random resized crop, as a share of the image's.",
        affects=_VIEWS,
        allowed=within(0, 1, "(]"),
    )
    rand_augment: str | None = setting(
        None,
        'RandAugment as timm writes it, for instance "rand-m6-n2-mstd1.0". Empty turns it off.',
        affects=_VIEWS,
    )
    mix: str | None = setting(
        None,
        "How the images of a batch are mixed.",
        affects=_VIEWS,
        allowed=one_of("cutmix", "mixup", "none"),
    )
    mix_alpha: float | None = setting(
        None,
        "Parameter of the Beta distribution that the share of an image in a mix is drawn from.",
        affects=_VIEWS,
        allowed=above(0, least=1e-3, most=1e6),
    )
    mix_probability: float | None = setting(
        None,
        "Probability that the images of a batch are mixed at all.",
        affects=_VIEWS,
        allowed=within(0, 1, "(]"),
    )
    dsa: str | None = setting(
        None,
        "Differentiable Siamese augmentation after the crop: a mode and operations, for instance "
        '"one-color_crop_cutout_flip_scale_rotate" (see docs/evaluation.md). Empty turns it off.',
        affects=_VIEWS,
    )
    temperature: float | None = setting(
        None,
        "Temperature T by which the logits of teacher and student are divided.",
        affects=_VIEWS,
        allowed=above(0, least=1e-3, most=1e6),
    )
    shuffle: int | None = setting(
        None,
        "Strips that a view is cut into each way, to be shuffled (RDED). 1 shuffles nothing.",
        affects=_VIEWS,
        allowed=at_least(1),
    )
    ensemble: bool = setting(
        False,
        "Whether labels are the mean logits of all the run's teachers, those of teacher.others "
        "included.",
        affects=_VIEWS,
    )
    teachers: tuple[str, ...] = setting(
        (),
        "Folders of more teachers, whose logits are averaged with the first one's.",
        affects=_VIEWS,
        split=False,  # a path may have a comma
    )
    stored_epochs: int = setting(
        0,
        'Epochs of views that the "stored" regime labels once and students repeat. 0 labels as '
        "many as a student trains.",
        affects=_VIEWS,
        allowed=at_least(0, most=10**6),
    )
    top_k: int = setting(
        0,
        "Outputs that are stored of each label; the other classes share the remainder. 0 stores "
        "all.",
        affects=_VIEWS,
        allowed=at_least(0),
    )
    form: str = setting(
        "logits",
        "What stored labels are, in float16: logits, or probabilities at the temperature.",
        affects=_VIEWS,
        allowed=one_of("logits", "probabilities"),
    )


@dataclass(frozen=True)
class EvaluateRecipe:
    """Students trained from scratch on distilled and other images, and their scores.

    None stands for what the protocol says (see docs/evaluation.md).
    """

    protocol: str = setting(
        "delt",
        "Recipe of training by its name, which the settings below and those of relabel change.",
        affects=_VIEWS,
        allowed=one_of(
            *("delt", "sre2l", "rded", "delt_jax", "common", "dsa", "idc", "frepo"),
            *("mtt", "ratbptt", "rcig"),
            with_plugins=True,
        ),
    )
    hard_protocol: str = setting(
        "",
        "Recipe of training with hard labels, where it is another: the literature of hard labels "
        'has "dsa" and "idc". Empty takes evaluate.protocol.',
        affects="scores",
        allowed=one_of(
            *("", "delt", "sre2l", "rded", "delt_jax", "common", "dsa", "idc", "frepo"),
            *("mtt", "ratbptt", "rcig"),
            with_plugins=True,
        ),
    )
    students: tuple[str, ...] = setting(
        ("conv3",),
        "Architectures of the students, names of the zoo or plug-ins. An empty name stands for the "
        "teacher's.",
        affects=_VIEWS,
    )
    width: int = setting(
        0,
        "Channels of the students' first stage. 0 takes the paper's own width.",
        affects="scores",
        allowed=at_least(0, most=2**16),
    )
    images: tuple[str, ...] = setting(
        ("recovered", "random", "selected"),
        'Images to train on: the distilled ones ("recovered"), baselines of as many real images '
        'per class, or "full": all real images with hard labels.',
        affects="scores",
        allowed=some_of("recovered", "random", "selected", "herding", "kmeans", "full"),
    )
    regimes: tuple[str, ...] = setting(
        ("online", "hard"),
        'Where labels come from: the teacher labels every view ("online") or has labelled some '
        'epochs of views before ("stored"), one soft label per image ("fixed"), the label that was '
        'learned with the image ("learned"), or the class ("hard").',
        affects=_VIEWS,
        allowed=some_of("online", "stored", "fixed", "learned", "hard"),
    )
    seeds: int = setting(
        3,
        "Independent students of each row of the table; the spread is over these.",
        affects="scores",
        allowed=at_least(1, most=10**4),
    )
    epochs: int | None = setting(
        None,
        "Epochs of training. 0 derives them from the number of distilled images.",
        affects=_VIEWS,
        allowed=at_least(0, most=10**6),
    )
    batch_size: int | None = setting(
        None,
        "Images per batch, at most as many as the set has. Views are mixed within groups of this "
        "size.",
        affects=_VIEWS,
        allowed=at_least(2),
    )
    learning_rates: tuple[float, ...] = setting(
        (),
        "Peak learning rates to try. The best on the test images counts, as in DD-Ranking, and "
        "is named. Empty takes the protocol's.",
        affects="scores",
        allowed=above(0),
    )
    eval_every: int | None = setting(
        None,
        "Epochs between tests on the test images. The last epoch always counts.",
        affects="scores",
        allowed=at_least(1),
    )
    schedule: str | None = setting(
        None,
        'Learning rate by epoch: "cosine" falls to zero, "half_cosine" to half the peak (RDED, '
        'DELT), "step" to a tenth in the middle (DSA), "two_steps" to a fifth after 2/3 and again '
        'after 5/6 (IDC), "warm_cosine" rises for 500 steps and then falls to a hundredth (FRePo), '
        '"constant" stays.',
        affects="scores",
        allowed=one_of("cosine", "half_cosine", "step", "two_steps", "warm_cosine", "constant"),
    )
    optimiser: str | None = setting(
        None,
        'Optimiser of students: "adamw", or "sgd" with a momentum of 0.9.',
        affects="scores",
        allowed=one_of("adamw", "sgd"),
    )
    weight_decay: float | None = setting(
        None,
        "Decay of weights: with AdamW decoupled and of those with more than one axis, with SGD an "
        "L2 term of all.",
        affects="scores",
        allowed=at_least(0),
    )
    loss: str | None = setting(
        None,
        'Loss of soft labels: "kl" of probabilities at the temperature, "mse" of logits, or '
        '"squared" of label values, which stands for hard labels, too (FRePo).',
        affects="scores",
        allowed=one_of("kl", "mse", "squared"),
    )
    hard_weight: float | None = setting(
        None,
        "Weight of a cross-entropy with the image's class beside the soft label's loss.",
        affects="scores",
        allowed=at_least(0),
    )
    ema: float | None = setting(
        None,
        "Decay of the averaged weights that are tested. 0 tests the last weights.",
        affects="scores",
        allowed=within(0, 1, "[)"),
    )
    smaller: tuple[int, ...] = setting(
        (),
        "Also trains on the first so many distilled images of every class, for instance (1, 5).",
        affects="scores",
        allowed=above(0),
    )
    plain: bool = setting(
        False,
        "Also trains with hard labels on images without augmentation, which the augmentation "
        "robust score needs.",
        affects="scores",
    )
    keep_students: bool = setting(
        False,
        "Also writes every student to evaluation/students/STUDENT-REGIME-IMAGES-SEED, a folder "
        "that teacher.weights can name. The stage runs again if the students are missing.",
        affects="files",
    )
    scores_folder: str = setting(
        "",
        "Folder of finished scores. Runs that share it train their common baselines once. Empty "
        "takes WORKDIR/scores.",
        affects="files",
    )
    dtype: str = setting(
        "float32",
        "Type of the students' activations.",
        affects="scores",
        allowed=one_of("float32", "bfloat16"),
    )
    seeds_at_once: int = setting(
        0,
        "Students that train together on a device. 0 spreads small ones evenly over accelerators, "
        "else 1.",
        affects="speed",
        allowed=at_least(0, most=10**4),
    )
    save_minutes: float = setting(
        5.0,
        "Minutes between saves of unfinished students.",
        affects="speed",
        allowed=above(0, most=10**6),
    )
    accumulate: int | None = setting(
        None, "Batches per gradient step.", affects="scores", allowed=at_least(1)
    )
    devices_per_student: int = setting(
        0,
        "Devices that share a student's batches; their gradients are averaged. 0 takes several "
        "for a large student where students are fewer than accelerators, else 1.",
        affects="scores",
        allowed=at_least(0, most=10**4),
    )
    batch_norm: str = setting(
        "own",
        'Whether each of these devices uses its "own" BatchNorm statistics or all use "shared" '
        "ones.",
        affects="scores",
        allowed=one_of("own", "shared"),
    )


@dataclass(frozen=True)
class ReportRecipe:
    """The report."""

    nearest: bool = setting(
        True,
        "Whether the report finds the real training image nearest to each distilled one. This "
        "reads the training set once and runs the teacher on all of it.",
        affects="report",
    )
    second_teacher: str = setting(
        "",
        "Folder of a teacher that images were not optimised for, whose probabilities of their "
        "classes are shown, too.",
        affects="report",
    )
