"""The views of a protocol as one writes them in eager PyTorch, in two ways.

`PilViews` is a data set for worker processes: RandAugment on PIL images, as timm defines it and the
released code of RDED and DELT uses it, then a tensor, its crop, flip and normalisation.
`TensorViews` does the same to a whole batch on the device. There RandAugment takes the images that
drew the same operation together, which is faster than image by image; the moves share a resampling.
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch_recovery
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional
from torch.utils.data import Dataset

from delt_jax.augment.views import ViewSpec
from delt_jax.data import Normalisation

MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
POLICY = "rand-m6-n2-mstd1.0"  # the one that both sides implement
_MAGNITUDE, _SPREAD, _COUNT, _PROBABILITY = 6.0, 1.0, 2, 0.5
_ASPECT = math.log(3 / 4), math.log(4 / 3)
_TRIES = 10


def argument(name: str, magnitude: float, sign: float) -> float:
    """timm's argument of an operation for a magnitude in [0, 10] and a sign."""
    level = magnitude / 10
    signed = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3}
    signed |= {"translate_x": 0.45, "translate_y": 0.45}
    if name in signed:
        return sign * level * signed[name]
    whole = {"posterize": 4, "solarize": 256, "solarize_add": 110}
    return int(level * whole[name]) if name in whole else level * 1.8 + 0.1


def _solarize_add(image: Image.Image, addend: float) -> Image.Image:
    table = [min(255, i + int(addend)) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


# Of an image and its argument.
PIL_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "solarize_add": _solarize_add,
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}
NAMES = (*PIL_OPERATIONS, *MOVES)


def move_pil(
    image: Image.Image, name: str, value: float, resample: Image.Resampling, fill
) -> Image.Image:
    """One of `MOVES`, with timm's calls of Pillow."""
    if name == "rotate":
        return image.rotate(value, resample, fillcolor=fill)
    matrices = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * image.size[0], 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * image.size[1]),
    }
    affine = Image.Transform.AFFINE
    return image.transform(image.size, affine, matrices[name], resample, fillcolor=fill)


def augment_pil(draw: random.Random, image: Image.Image, fill) -> Image.Image:
    """RandAugment of one image."""
    for name in draw.choices(NAMES, k=_COUNT):
        if draw.random() > _PROBABILITY:
            continue
        magnitude = min(10.0, max(0.0, draw.gauss(_MAGNITUDE, _SPREAD)))
        value = argument(name, magnitude, draw.choice((-1.0, 1.0)))
        if name in MOVES:
            kernels = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
            image = move_pil(image, name, value, draw.choice(kernels), fill)
        else:
            image = PIL_OPERATIONS[name](image, value)
    return image


class PilViews(Dataset):
    """Normalised views float32 [C, S, S] of images that lie decoded in memory.

    Args:
      pixels: uint8 [N, S, S, C].
      spec: what a view is drawn from; RandAugment is `POLICY` or none.
      normalisation: of the networks' inputs.
    """

    def __init__(self, pixels: np.ndarray, spec: ViewSpec, normalisation: Normalisation):
        self._pixels, self._spec = pixels, spec
        self._mean, self._std = (
            torch.tensor(values).view(-1, 1, 1)
            for values in (normalisation.mean, normalisation.std)
        )
        fill = tuple(round(255 * mean) for mean in normalisation.mean)
        self._fill = fill if len(fill) > 1 else fill[0]

    def __len__(self) -> int:
        """Images in the set."""
        return len(self._pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        """A view of one image."""
        pixels, spec = self._pixels[index], self._spec
        draw = random.Random(int(torch.randint(1 << 62, ())))  # torch seeds every worker
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if spec.rand_augment:
            image = augment_pil(draw, image, self._fill)
        seen = np.array(image).reshape(pixels.shape)
        tensor = torch.from_numpy(seen).permute(2, 0, 1).float() / 255
        size = tensor.shape[-1]
        top, left, height, width = torch_recovery.random_box(draw, size, spec.min_scale)
        view = tensor[None, :, top : top + height, left : left + width]
        view = functional.interpolate(view, (size, size), mode="bilinear", antialias=True)[0]
        if spec.flip and draw.random() < 0.5:
            view = view.flip(-1)
        return (view - self._mean) / self._std


class TensorViews:
    """Normalised views of batches of images that lie on the device.

    Draws are made on the CPU for a whole batch at once, so that nothing waits for the device.

    Args:
      pixels: uint8 [N, C, S, S], on its device.
      spec: what a view is drawn from; RandAugment is `POLICY` or none.
      normalisation: of the networks' inputs.
    """

    def __init__(self, pixels: torch.Tensor, spec: ViewSpec, normalisation: Normalisation):
        self._pixels, self._spec, self._device = pixels, spec, pixels.device
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(-1, 1, 1)
            for values in (normalisation.mean, normalisation.std)
        )
        self._fill = (255 * self._mean).round()
        self._draw = random.Random(0)

    def __call__(self, indices: torch.Tensor) -> torch.Tensor:
        """Views float32 [B, C, S, S] of the images at some indices, int64 [B] on the device."""
        spec, images = self._spec, self._pixels[indices].float()
        if spec.rand_augment:
            for _ in range(_COUNT):
                images = self._augmented(images)
        size = images.shape[-1]
        boxes, mirrored = _draw_boxes(len(images), size, spec.min_scale, spec.flip)
        boxes, mirrored = (t.to(self._device, non_blocking=True) for t in (boxes, mirrored))
        rows = resize_weights(boxes[:, 0], boxes[:, 2], size)
        columns = resize_weights(boxes[:, 1], boxes[:, 3], size)
        columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
        views = rows[:, None] @ images @ columns.transpose(1, 2)[:, None]
        return (views / 255 - self._mean) / self._std

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        """One operation per image, or none."""
        draw = self._draw
        drawn: dict[tuple[str, bool], list[tuple[int, str, float]]] = {}
        for i in range(len(images)):
            if draw.random() > _PROBABILITY:
                continue
            name = draw.choice(NAMES)
            magnitude = min(10.0, max(0.0, draw.gauss(_MAGNITUDE, _SPREAD)))
            value = argument(name, magnitude, draw.choice((-1.0, 1.0)))
            cubic = name in MOVES and draw.random() < 0.5
            group = "move" if name in MOVES else name
            drawn.setdefault((group, cubic), []).append((i, name, value))
        images = images.clone()
        for (group, cubic), members in drawn.items():
            positions, names, values = zip(*members, strict=True)
            at = torch.tensor(positions).to(self._device, non_blocking=True)
            if group == "move":
                matrices = [matrix(name, v) for name, v in zip(names, values, strict=True)]
                theta = torch.tensor(matrices).to(self._device, non_blocking=True)
                images[at] = move(images[at], theta, cubic, self._fill)
            else:
                each = torch.tensor(values).to(self._device, non_blocking=True)
                images[at] = TENSOR_OPERATIONS[group](images[at], each.view(-1, 1, 1, 1).float())
        return images


def _draw_boxes(
    count: int, size: int, min_scale: float, flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes int64 [B, 4] of RandomResizedCrop (top, left, height, width), and flips bool [B]."""
    area = size * size * torch.empty(count, _TRIES).uniform_(min_scale, 1)
    ratio = torch.empty(count, _TRIES).uniform_(*_ASPECT).exp()
    width, height = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.int().argmax(1, keepdim=True)
    some = fits.any(1)
    height, width = (
        torch.where(some, side.gather(1, first)[:, 0], size) for side in (height, width)
    )
    place = torch.rand(2, count)
    top, left = (place[0] * (size - height + 1)).long(), (place[1] * (size - width + 1)).long()
    return torch.stack([top, left, height, width], 1), (torch.rand(count) < 0.5) & flip


def resize_weights(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices [B, size, size] of antialiased bilinear resizes of a part of each image's axis."""
    pixel = torch.arange(size, device=start.device)
    scale = length[:, None] / size
    centre = (pixel + 0.5) * scale - 0.5
    inside = pixel - start[:, None]
    distance = (inside[:, None, :] - centre[:, :, None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    weights = weights * ((inside >= 0) & (inside < length[:, None]))[:, None, :]
    return weights / weights.sum(2, keepdim=True)


# Operations on float images [n, C, S, S] that hold whole numbers in 0..255, and arguments
# [n, 1, 1, 1].


def _blend(degenerate: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (degenerate + factor * (images - degenerate)).clamp(0, 255).floor()


def _grey(images: torch.Tensor) -> torch.Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()[:, None]


def _autocontrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = ((images - low) * (255 / (high - low).clamp(min=1))).floor()
    return torch.where(high > low, stretched, images)


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    count, channels, size, _ = images.shape
    flat = images.long().reshape(count * channels, -1)
    counts = torch.zeros(count * channels, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    last = counts.gather(1, flat.amax(1, keepdim=True))
    step = (size * size - last) // 255
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    spread = table.gather(1, flat).reshape(images.shape).to(images.dtype)
    return torch.where((step > 0).view(count, channels, 1, 1), spread, images)


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    step = torch.exp2(8 - bits)
    return (images / step).floor() * step


def _contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = (_grey(images).mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean, images, factor)


def _sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    kernel = torch.ones(images.shape[1], 1, 3, 3, device=images.device) / 13
    kernel[:, :, 1, 1] = 5 / 13
    smooth = images.clone()
    inner = functional.conv2d(images, kernel, groups=images.shape[1])
    smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).floor()
    return _blend(smooth, images, factor)


TENSOR_OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda images, _: 255 - images,
    "posterize": _posterize,
    "solarize": lambda images, limit: torch.where(images < limit, images, 255 - images),
    "solarize_add": lambda images, addend: torch.where(
        images < 128, (images + addend).clamp(max=255), images
    ),
    "color": lambda images, factor: _blend(_grey(images), images, factor),
    "contrast": _contrast,
    "brightness": lambda images, factor: _blend(torch.zeros_like(images), images, factor),
    "sharpness": _sharpness,
}


def matrix(name: str, value: float) -> list[list[float]]:
    """Of a move, for `affine_grid`: from the result to the source, the image being -1..1."""
    if name == "rotate":
        cosine, sine = math.cos(math.radians(value)), math.sin(math.radians(value))
        return [[cosine, -sine, 0.0], [sine, cosine, 0.0]]
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    if name.startswith("translate"):
        rows["xy".index(name[-1])][2] = 2 * value
    elif name == "shear_x":  # about the first row, as Pillow does it
        rows[0][1:] = [value, value]
    else:
        rows[1] = [value, 1.0, value]
    return rows


def move(
    images: torch.Tensor, theta: torch.Tensor, cubic: bool, fill: torch.Tensor
) -> torch.Tensor:
    """Resamples images [n, C, S, S] by `matrix`es [n, 2, 3]; `fill` [C, 1, 1] lies outside."""
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(-1)[:, None]
    kernel = "bicubic" if cubic else "bilinear"
    seen = functional.grid_sample(images, grid, kernel, "border", align_corners=False)
    return torch.where(inside, seen.clamp(0, 255).floor(), fill)


def cutmix(images: torch.Tensor, draw: Sequence[float]) -> torch.Tensor:
    """CutMix of a batch with a random permutation of itself, one box for all, in place.

    Args:
      images: float [B, C, S, S].
      draw: λ and the box's centre, three uniform numbers in [0, 1).
    """
    size = images.shape[-1]
    partners = torch.randperm(len(images)).to(images.device, non_blocking=True)
    weight, *centre = draw
    half = int(size * math.sqrt(1 - weight)) // 2
    rows, columns = (
        slice(max(0, int(size * c) - half), min(size, int(size * c) + half)) for c in centre
    )
    images[:, :, rows, columns] = images[:, :, rows, columns][partners]
    return images
