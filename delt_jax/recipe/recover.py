"""Settings of the distilled images: where they start, and how they are optimised."""

from dataclasses import dataclass

from delt_jax.recipe.fields import above, at_least, one_of, setting, within


@dataclass(frozen=True)
class SelectRecipe:
    """Where each distilled image starts."""

    rule: str = setting(
        "medium",
        "Which real images are chosen of a class, by the teacher's probability of the true class: "
        'those around the median ("medium", DELT), the highest ("top"), the lowest ("min"), or '
        '"random" ones.',
        affects=("images", "scores"),
        allowed=one_of("medium", "top", "min", "random", with_plugins=True),
    )
    start: str = setting(
        "real",
        'What images start from: the chosen "real" images, Gaussian "noise", "rded": mosaics '
        'of the crops of real images that the teacher is surest of (RDED), "pictures" of your own, '
        'or a distilled "set".',
        affects="images",
        allowed=one_of("real", "noise", "rded", "pictures", "set", with_plugins=True),
    )
    small_classes: str = setting(
        "stop",
        'What a class with fewer training images than ipc does: "stop" ends the run with its name; '
        '"repeat" takes its images again, and recovery then starts from random crops of them.',
        affects=("images", "scores"),
        allowed=one_of("stop", "repeat"),
    )
    pictures: str = setting(
        "",
        'Folder with a folder of "pictures" for each class. Where a class has fewer than ipc, '
        "they come again as random crops.",
        affects="images",
    )
    set: str = setting(
        "",
        'The "set" to start from, with the classes of the data and at least ipc images of each: a '
        "work directory, an export or a published set, here or in a store. Images of another size "
        "are resized.",
        affects="images",
    )
    mosaic: int = setting(
        0,
        'Crops along a side of an "rded" image. 0 takes 2 from 128 px on and 1 below, as '
        "published.",
        affects="images",
        allowed=at_least(0),
    )
    candidates: int = setting(
        300,
        'Real images of each class that are drawn for "rded"; all where there are fewer.',
        affects="images",
        allowed=at_least(1),
    )
    crops: int = setting(
        5,
        "Crops of each of these images, of which the best counts.",
        affects="images",
        allowed=at_least(1, most=10**4),
    )


@dataclass(frozen=True)
class RecoverRecipe:
    """How the images are optimised; the defaults are DELT's values for ImageNet-1K."""

    iterations: int = setting(
        4000,
        "T, the iterations of the images that join first. 0 optimises nothing: the distilled set "
        "is its start.",
        affects="images",
        allowed=at_least(0),
    )
    round_iterations: int = setting(
        500,
        "R: one more group of images joins every R iterations (EarlyLate). It divides T; 0 lets "
        "all join at once.",
        affects="images",
        allowed=at_least(0),
    )
    batch_size: int = setting(
        100,
        "Images per batch. A batch shares its BatchNorm statistics.",
        affects="images",
        allowed=at_least(1),
    )
    layout: str = setting(
        "class_major",
        'Which images share a batch: "class_major" puts all images of a class side by side '
        '(DELT), "whole_classes" does so and cuts no class (WMDD), "one_per_class" takes one '
        "image of each class (SRe2L, CDA).",
        affects="images",
        allowed=one_of("class_major", "whole_classes", "one_per_class"),
    )
    optimiser: str = setting(
        "adam",
        'What turns gradients into steps: "adam" is Adam(0.5, 0.9). A plug-in keeps a state for '
        "each image (see docs/extending.md).",
        affects="images",
        allowed=one_of("adam", with_plugins=True),
    )
    learning_rate: float = setting(
        0.25,
        "Peak learning rate; it falls to zero by a cosine.",
        affects="images",
        allowed=above(0),
    )
    bn_weight: float = setting(
        0.01,
        "Weight of BatchNorm matching beside the cross-entropy.",
        affects="images",
        allowed=at_least(0),
    )
    first_bn_multiplier: float = setting(
        10.0,
        "Extra weight of the first BatchNorm layer in the matching.",
        affects="images",
        allowed=at_least(0),
    )
    curriculum: str = setting(
        "cosine",
        "How the smallest area of a crop falls from the whole image to min_scale (CDA). "
        '"step" keeps whole images until the milestone.',
        affects="images",
        allowed=one_of("cosine", "linear", "step"),
    )
    milestone: float = setting(
        1.0,
        "Share of the iterations over which it falls, at most 1. 0 crops down to min_scale from "
        "the start.",
        affects="images",
        allowed=at_least(0),
    )
    min_scale: float = setting(
        0.08,
        "Smallest area of a random crop, as a share of the image's.",
        affects="images",
        allowed=within(0, 1, "(]"),
    )
    jitter: int = setting(
        0,
        "Largest circular shift in pixels, right and down, at most the image's side. -1 takes a "
        "seventh of it, which is SRe2L's 32 px of 224 and 4 of 32.",
        affects="images",
        allowed=at_least(-1),
    )
    jitter_both_ways: bool = setting(
        False,
        "Whether shifts also go as far left and up (SRe2L on Tiny-ImageNet).",
        affects="images",
    )
    crop_padding: int = setting(
        0,
        "Pixels of the mean colour around an image, out of which a view of its size is cut at "
        "random (G-VBSM on small images). 0 takes resized crops instead.",
        affects="images",
        allowed=at_least(0),
    )
    flip: bool = setting(
        True,
        "Whether views are mirrored at random, where data.flip allows it.",
        affects="images",
    )
    crop: str = setting(
        "batch",
        'Whether each iteration draws one box, flip and shift per "batch" (released code) or per '
        '"image".',
        affects="images",
        allowed=one_of("batch", "image"),
    )
    clock: str = setting(
        "batch",
        'Whether iterations count from the start of the "batch" (released code) or from the '
        'start of each "image". Learning rate, curriculum and Adam\'s bias correction follow the '
        "count.",
        affects="images",
        allowed=one_of("batch", "image"),
    )
    storage: str = setting(
        "png",
        'File format of the images: "png" rounds the pixels and loses nothing more, "jpeg75" '
        "truncates them and stores JPEG of quality 75, as released.",
        affects="images",
        allowed=one_of("png", "jpeg75"),
    )
    dtype: str = setting(
        "float32",
        "Type of the teacher's activations. Images, BatchNorm moments and losses stay float32; "
        "where bfloat16 fails its check at the start, float32 is used.",
        affects="images",
        allowed=one_of("float32", "bfloat16"),
    )
    batches_per_device: int = setting(
        0,
        "Batches that a device optimises at once. 0 takes 1 on CPU, elsewhere a power of two that "
        "fits the memory. It can change the last bits of the images.",
        affects="speed",
        allowed=at_least(0, most=1024),
    )
    save_minutes: float = setting(
        5.0,
        "Minutes between saves of unfinished batches, beside the saves at round ends.",
        affects="speed",
        allowed=above(0, most=10**6),
    )
    terms: tuple[str, ...] = setting(
        (),
        'Further terms of the objective, each "name=weight", or the name alone for weight 1. '
        "Names are those of the files in delt_jax/terms (see docs/methods.md), or of plug-ins.",
        affects="images",
    )
    round_robin: bool = setting(
        False,
        "Whether the run's K teachers take turns: teacher t mod K guides iteration t (G-VBSM, "
        "EDC).",
        affects="images",
    )
    statistics_momentum: float = setting(
        0.8,
        "Weight of the average so far in the running statistics that the terms global_statistics "
        "and class_statistics match.",
        affects="images",
        allowed=within(0, 1, "[)"),
    )
    conv_drop: float = setting(
        0.0,
        "Probability that these two terms leave a convolution out of an iteration (G-VBSM).",
        affects="images",
        allowed=within(0, 1, "[)"),
    )
    bn_variance_weight: float = setting(
        1.0,
        "Extra weight of the variances in BatchNorm matching, in every layer (DWA).",
        affects="images",
        allowed=at_least(0),
    )
    perturbation: float = setting(
        0.0,
        "rho, how far each batch's copy of the teacher moves up the gradient of the "
        "cross-entropy of the batch's start images (DWA). 0 lets all batches share the teacher.",
        affects="images",
        allowed=at_least(0),
    )
    perturbation_steps: int = setting(
        12,
        "Steps in which it moves, each of length rho / steps.",
        affects="images",
        allowed=at_least(1, most=10**6),
    )
    residual: float = setting(
        0.0,
        "Share of its start that is mixed into every image where a block of iterations begins, "
        "except the first (FADRM). 0 mixes nothing in.",
        affects="images",
        allowed=within(0, 1, "[)"),
    )
    residual_rounds: int = setting(
        4,
        "Blocks of nearly equal length into which the iterations are divided for this. Adam "
        "starts again in each.",
        affects="images",
        allowed=at_least(1),
    )
    min_iterations: int = setting(
        0,
        "Each class draws its iterations, a multiple of R between this and T, after which its "
        "images freeze. 0 gives T to every class.",
        affects="images",
        allowed=at_least(0),
    )
    chunk_steps: int = setting(
        0,
        "Iterations per compiled call. 0 takes 1 on CPU and 50 elsewhere. It can change the last "
        "bits of the images.",
        affects="speed",
        allowed=at_least(0),
    )
    profile_chunks: int = setting(
        0,
        "Compiled calls that jax.profiler traces into WORKDIR/profile. 0 traces none.",
        affects="files",
        allowed=at_least(0),
    )
