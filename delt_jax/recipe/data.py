"""Settings of the real images."""

import os
from dataclasses import dataclass

from delt_jax.recipe.fields import above, at_least, one_of, setting, within
from delt_jax.recipe.known import KNOWN
from delt_jax.recipe.units import LEAST_STD


def lists_classes(setting: str) -> bool:
    """Whether `data.classes` lists classes itself, with commas between, and names no file."""
    return "," in setting and "://" not in setting and not os.path.exists(setting)


@dataclass(frozen=True)
class DataRecipe:
    """The real images (see docs/data.md)."""

    name: str = setting(
        "digits",
        'Source of the images; "classes" has names of classes and no images to train on.',
        affects="data",
        allowed=one_of(
            *("digits", "folder", "npz", "idx", "tfds", "parquet", "webdataset", "classes"),
            with_plugins=True,
        ),
    )
    path: str = setting(
        "",
        "The folder of images, of idx, parquet or tar files, the .npz file, or the TFDS data "
        "directory, here or on gs:// or s3://; of parquet also hf:OWNER/NAME on the Hugging Face "
        "Hub; of webdataset also a pattern such as train-{000..099}.tar; of classes, perhaps a "
        "folder of test images.",
        affects="data",
    )
    dataset: str = setting(
        "",
        'Name of the TFDS builder, for instance "cifar10"; of parquet, the column of the labels; '
        "of webdataset, the field of each .json that has it. Other sources do not use it.",
        affects="data",
    )
    classes: str = setting(
        "",
        "Classes to take of a folder, npz, tfds, parquet, webdataset or classes source, in label "
        'order: a file with one per line, "imagenet", "imagenet100", "imagenet10", "imagenette" or '
        '"imagewoof", or some of ImageNet\'s with commas between, by wnid, name or label. Empty '
        "takes all; those of a folder come in the order of their names.",
        affects="data",
    )
    image_size: int = setting(
        0,
        "Side in pixels that images are brought to. 0 keeps the source's; for a folder it derives "
        "28, 32, 64, 128 or 224.",
        affects="data",
        allowed=at_least(0, most=4096),
    )
    channels: int = setting(
        0,
        "Colour channels that images are brought to. 0 keeps the source's.",
        affects="data",
        allowed=one_of(0, 1, 3),
    )
    fit: str = setting(
        "resize",
        'How images reach image_size: "resize" scales the shorter side bilinearly and takes the '
        'centre, "centre" scales it to 8/7 of the size first (256 px for 224), "pad" keeps the '
        "whole image, scaled down if it is larger, and adds zeros around.",
        affects="data",
        allowed=one_of("resize", "centre", "pad"),
    )
    flip: bool = setting(
        True,
        "Whether a mirrored image still shows its class. False turns off every random flip of "
        "the run.",
        affects=("teacher", "images", "labels", "scores"),
    )
    mean: tuple[float, ...] = setting(
        (),
        "Mean of each channel, for pixels in [0, 1], by which images are normalised. Empty "
        "measures it on the training set; a teacher taken from a folder brings its own.",
        affects=("teacher", "scores"),
        allowed=within(0, 1, "[]"),
    )
    std: tuple[float, ...] = setting(
        (),
        "Standard deviation of each channel, beside the mean.",
        affects=("teacher", "scores"),
        allowed=above(0, least=LEAST_STD, most=1),
    )
    class_names: tuple[str, ...] = setting(
        (),
        "Names in label order, for sources that have none. Empty numbers the classes; for "
        "classes, it stands for ImageNet's.",
        affects="data",
        split=False,  # a name may have a comma
    )
    validation_share: float = setting(
        0.0,
        "Share of each class's training images that is held out. These replace the test images, "
        "and no stage sees the test images at all (see docs/tuning.md). A teacher from elsewhere "
        "must not have seen the held-out images either.",
        affects="data",
        allowed=within(0, 1, "[)"),
    )
    test_share: float = setting(
        0.2,
        "Share of each class that becomes the test images, for a folder or .npz file that has no "
        "test split.",
        affects="data",
        allowed=within(0, 1, "()"),
    )
    split_seed: int = setting(
        0,
        "Seed of the drawn test and validation images.",
        affects="data",
        allowed=at_least(0, most=2**32 - 1),
    )
    memory_mib: int = setting(
        640,
        "Splits whose pixels fit into this many MiB are decoded once and kept in the work "
        "directory. Larger ones are decoded whenever they are read.",
        affects="speed",
        allowed=at_least(0),
    )
    workers: int = setting(
        -1,
        "Processes that decode images. 0 decodes in the run's own process, -1 takes one per core, "
        "at most 16.",
        affects="speed",
        allowed=at_least(-1, most=256),
    )
    unreadable: str = setting(
        "stop",
        'What a file that is no image does: "stop" ends the run with its name; "skip" leaves out '
        "all such files, for which every file is decoded once.",
        affects="data",
        allowed=one_of("stop", "skip"),
    )
    max_pixels: int = setting(
        178_956_970,
        "Most pixels that a picture may have, by default twice what Pillow warns of. Larger ones "
        "are unreadable, as a small file can hold gigabytes.",
        affects="data",
        allowed=at_least(1, most=2**40),
    )
    known_as: str = setting(
        "",
        "The published data set that these images are. Methods then bring the settings that are "
        "published for it, and a dry run needs no data. Empty for images of your own.",
        affects="dry run",
        allowed=one_of("", *KNOWN),
    )

    @property
    def has_training_images(self) -> bool:
        """Whether there are real images to train on and to start from."""
        return self.name != "classes"

    @property
    def has_test_images(self) -> bool:
        """Whether there are real images to measure accuracy on."""
        return self.has_training_images or bool(self.path)
