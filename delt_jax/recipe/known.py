"""Data sets that are known by name: their published numbers, without the data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownData:
    """What is published of a data set.

    Attributes:
      title: as printed.
      num_classes: classes in all.
      image_size: side in pixels that the field uses.
      channels: 1 or 3.
      train_images, test_images: numbers of images.
    """

    title: str
    num_classes: int
    image_size: int
    channels: int
    train_images: int
    test_images: int


# By the names that `data.known_as` has.
KNOWN = {
    "imagenet": KnownData("ImageNet-1K", 1000, 224, 3, 1_281_167, 50_000),
    "imagenet100": KnownData("ImageNet-100", 100, 224, 3, 126_689, 5_000),
    "imagenette": KnownData("ImageNette", 10, 224, 3, 12_894, 500),
    "imagewoof": KnownData("ImageWoof", 10, 224, 3, 12_454, 500),
    "tiny_imagenet": KnownData("Tiny-ImageNet", 200, 64, 3, 100_000, 10_000),
    "cifar10": KnownData("CIFAR-10", 10, 32, 3, 50_000, 10_000),
    "cifar100": KnownData("CIFAR-100", 100, 32, 3, 50_000, 10_000),
    "fashion_mnist": KnownData("Fashion-MNIST", 10, 28, 1, 60_000, 10_000),
    "mnist": KnownData("MNIST", 10, 28, 1, 60_000, 10_000),
    "digits": KnownData("digits", 10, 8, 1, 1_258, 539),
    "clip_art": KnownData("Open Clip Art", 8, 64, 3, 1_848, 461),
}
