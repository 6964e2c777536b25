"""Settings of the teachers."""

from dataclasses import dataclass

from delt_jax.recipe.fields import above, at_least, one_of, setting


@dataclass(frozen=True)
class TeacherRecipe:
    """The teacher, trained here by SGD or taken from elsewhere (see docs/teachers.md)."""

    model: str = setting(
        "conv3",
        "Architecture, a name of the zoo. Empty derives it from the image size.",
        affects="teacher",
    )
    width: int = setting(
        0,
        "Channels of the first stage. 0 takes the paper's own width.",
        affects="teacher",
        allowed=at_least(0, most=2**16),
    )
    epochs: int = setting(
        60,
        "Epochs of training. 0 derives them from the number of training images.",
        affects="teacher",
        allowed=at_least(0, most=10**6),
    )
    batch_size: int = setting(
        128, "Real images per gradient step.", affects="teacher", allowed=at_least(2)
    )
    learning_rate: float = setting(
        0.1, "Peak learning rate of SGD.", affects="teacher", allowed=above(0)
    )
    schedule: str = setting(
        "cosine",
        'Learning rate over all steps: "cosine" falls from the peak to zero, "one_cycle" rises '
        "to the peak first.",
        affects="teacher",
        allowed=one_of("cosine", "one_cycle"),
    )
    weight_decay: float = setting(
        5e-4,
        "L2 decay of all weights, added to the gradient.",
        affects="teacher",
        allowed=at_least(0),
    )
    crop_padding: int = setting(
        4,
        "Pixels of zeros around an image, out of which it is cropped back at random. 0 crops "
        "nothing.",
        affects="teacher",
        allowed=at_least(0),
    )
    weights: str = setting(
        "",
        "A teacher to use instead of training one: the folder of a finished teacher or student, a "
        ".safetensors or .pth file with torchvision's or timm's names of weights, "
        '"pkg:package/path" for such a file in an installed package, or "hf:owner/name" on the '
        "Hugging Face Hub. All but a folder need data.mean and data.std.",
        affects="teacher",
    )
    others: tuple[str, ...] = setting(
        (),
        'More teachers of the run: architectures "NAME" or "NAME:WIDTH", trained as the first '
        "one is, or folders of finished teachers. An architecture named again gets another seed. "
        "relabel.ensemble and recover.round_robin use them.",
        affects="teacher",
    )
    head_classes: tuple[int, ...] = setting(
        (),
        "Outputs of a file of weights that are the data's classes, in their order, for instance "
        "(0, 217, 482) of ImageNet's 1000. Empty takes all outputs, or finds ImageNet's by the "
        "wnids of the data's classes.",
        affects="teacher",
        allowed=at_least(0),
    )
    fine_tune: bool = setting(
        False,
        "Whether teacher.weights are where training begins, under a new last layer for the data's "
        "classes, in place of a finished teacher.",
        affects="teacher",
    )
    body_rate: float = setting(
        0.1,
        "Learning rate of all layers but the last in fine-tuning, as a share of learning_rate. 0 "
        "trains the last layer alone.",
        affects="teacher",
        allowed=at_least(0),
    )
    freeze_norm: bool = setting(
        False,
        "Whether fine-tuning keeps the running statistics of BatchNorm, and drops nothing out.",
        affects="teacher",
    )
    momentum: float = setting(
        0.9, "Momentum of SGD.", affects="teacher", allowed=at_least(0, most=1)
    )
