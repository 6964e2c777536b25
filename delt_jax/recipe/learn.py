"""Settings of learned sets: images that are learned through networks in training."""

from dataclasses import dataclass

from delt_jax.recipe.fields import above, at_least, one_of, setting


@dataclass(frozen=True)
class LearnRecipe:
    """How a set is learned, where synthesis is "learn".

    None stands for what the method publishes for the data set and images per class (see
    docs/learned.md).
    """

    method: str = setting(
        "frepo",
        'Method by its name. Images descend on matched features ("dm"), matched gradients ("dc", '
        '"dsa" and "idc"), kernel regression on features ("frepo"), matched trajectories ("mtt", '
        '"ftd", "tesla", "datm" and "att"), a window of the student\'s training ("ratbptt"), or '
        'implicit gradients ("rcig").',
        affects="images",
    )
    small: bool = setting(
        False,
        "Takes widths, steps and rates that learn a set in minutes of two CPU cores where a "
        "setting is None, in place of the published ones; they are ours.",
        affects="images",
    )
    model: str | None = setting(
        None,
        "Architecture of the networks that images are learned through, a name of the zoo.",
        affects="images",
    )
    width: int | None = setting(
        None,
        "Channels of their first stage. 0 takes the paper's own width.",
        affects="images",
        allowed=at_least(0, most=2**16),
    )
    steps: int | None = setting(
        None,
        "Gradient steps of the images.",
        affects="images",
        allowed=at_least(1, most=10**8),
    )
    real_batch: int | None = setting(
        None,
        "Real images of each step; of each class where the method matches class by class.",
        affects="images",
        allowed=at_least(1, most=10**6),
    )
    image_rate: float | None = setting(
        None, "Learning rate of the images.", affects="images", allowed=above(0)
    )
    label_rate: float | None = setting(
        None,
        "Learning rate of the labels. 0 leaves them as they start.",
        affects="images",
        allowed=at_least(0),
    )
    network_rate: float | None = setting(
        None,
        "Learning rate of the networks. 0 leaves them as they are drawn.",
        affects="images",
        allowed=at_least(0),
    )
    network_steps: int | None = setting(
        None,
        "Steps of a network after each step of the images: gradient steps with FRePo and IDC, "
        "epochs of the learned images with DC and DSA.",
        affects="images",
        allowed=at_least(0, most=10**6),
    )
    lifetime: int | None = setting(
        None,
        "Steps of the images after which a network is made anew.",
        affects="images",
        allowed=at_least(1, most=10**8),
    )
    augment: str | None = setting(
        None,
        "Differentiable Siamese augmentation of real and learned images alike, a mode and "
        'operations as relabel.dsa has them, such as "one-color_crop_cutout". Empty turns it off.',
        affects="images",
    )
    factor: int | None = setting(
        None,
        "Images along a side of a stored one, each enlarged before it is used (IDC). 1 stores "
        "each by itself.",
        affects="images",
        allowed=at_least(1, most=8),
    )
    mirrored: bool | None = setting(
        None,
        "Whether every image is also used mirrored, where data.flip allows it (FRePo on colour "
        "images).",
        affects="images",
    )
    preprocessing: str | None = setting(
        None,
        'The space that images are learned in: pixels standardised per channel ("standardise"), '
        'each image then centred and scaled to unit length ("unit", RaT-BPTT), or whitened after '
        'that ("zca", FRePo and RCIG; "kornia", the family of MTT; "unit_zca", RaT-BPTT), as '
        "their students and test images are, too.",
        affects="images",
        allowed=one_of("standardise", "unit", "zca", "unit_zca", "kornia"),
    )
    start: str | None = setting(
        None,
        'What images start from: "random" real images of their class, or Gaussian "noise".',
        affects="images",
        allowed=one_of("random", "noise"),
    )
    options: tuple[str, ...] | None = setting(
        None,
        "Further numbers of the method, as name=value (see docs/learned.md); those that are left "
        "out are as published.",
        affects="images",
    )
    validate_every: int = setting(
        0,
        "Steps between trainings of students on the set as it is, scored on validation images: "
        "those of data.validation_share, else a tenth of the training images, which are then not "
        "learned from. 0 trains none.",
        affects="images",
        allowed=at_least(0),
    )
    keep: str = setting(
        "last",
        'Which set goes on: the "last", or the "best" on validation images. Both are kept.',
        affects="images",
        allowed=one_of("last", "best"),
    )
    chunk_steps: int = setting(
        0,
        "Steps per compiled call. 0 takes 1 on CPU and up to 50 elsewhere. It can change the last "
        "bits of the images.",
        affects="speed",
        allowed=at_least(0, most=10**4),
    )
    save_minutes: float = setting(
        5.0,
        "Minutes between saves of the unfinished set and its networks.",
        affects="speed",
        allowed=above(0, most=10**6),
    )
