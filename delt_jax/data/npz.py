"""One .npz file of images and labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from delt_jax.data.classes import choose, relabel
from delt_jax.data.fit import fit_arrays
from delt_jax.data.source import ArrayExamples, Source, fingerprint, split_mask
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import npz
from delt_jax.store.foreign import ForeignFileError, shown
from delt_jax.store.local_copies import local

# Names in use for training images, their labels, test images, and their labels.
_SPLIT = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
_WHOLE = (("images", "labels"), ("x", "y"))
_HOW = (
    "it needs images and labels, or train_images, train_labels, test_images and test_labels (or "
    "x_train, ...): images uint8 [N, H, W] or [N, H, W, 1 or 3], labels whole numbers [N]"
)


def open_npz(recipe: DataRecipe) -> Source:
    """Reads the file at ``data.path``; splits by ``data.test_share`` if it has no test images.

    Raises:
      UserError: if the file is damaged or its arrays do not fit together.
    """
    path = local(recipe.path)
    names, arrays = _read(path)
    splits = {}
    for split, image_name, label_name in zip(
        ("train", "test"), names[::2], names[1::2], strict=False
    ):
        splits[split] = _check(path, image_name, arrays[image_name], label_name, arrays[label_name])
    named = recipe.class_names or _stored_names(path, arrays) or ()
    most = max(len(named), len(splits["train"][1]))
    splits = {
        split: (pixels, _as_int32(path, name, labels, most))
        for name, (split, (pixels, labels)) in zip(names[1::2], splits.items(), strict=True)
    }
    if "test" not in splits:
        pixels, labels = splits["train"]
        in_test = split_mask(labels, recipe.test_share, recipe.split_seed)
        where = {"train": np.flatnonzero(~in_test), "test": np.flatnonzero(in_test)}
        splits = {split: (pixels[i], labels[i]) for split, i in where.items()}
        numbers = where
    else:
        numbers = {split: np.arange(len(labels)) for split, (_, labels) in splits.items()}
    found = _class_names(path, named, splits)
    chosen = choose(found, recipe.classes, str(path))
    to_new = relabel(found, chosen)
    made = {}
    _check_splits({s: to_new[labels] for s, (_, labels) in splits.items()}, chosen, path)
    for split, (pixels, labels) in splits.items():
        new = to_new[labels]
        kept = np.flatnonzero(new >= 0)
        fitted = fit_arrays(pixels[kept], recipe.image_size, recipe.channels, recipe.fit)
        keys = [f"{split}/{numbers[split][i]:06}" for i in kept]
        made[split] = ArrayExamples(fitted, new[kept], keys)
    train, test = made["train"], made["test"]
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise UserError(
            f"The images of {path} have the shapes {train.pixels.shape[1:]} and "
            f"{test.pixels.shape[1:]}; set data.image_size and data.channels."
        )
    return Source(
        name=path.stem,
        class_names=chosen,
        image_size=train.pixels.shape[1],
        channels=train.pixels.shape[3],
        train=train,
        test=test,
        fingerprint=fingerprint(train.pixels, train.labels, test.pixels, test.labels),
    )


def _check_splits(
    labels: Mapping[str, np.ndarray], class_names: tuple[str, ...], path: Path
) -> None:
    """Raises a UserError if a split has no image of a class that another has.

    Args:
      labels: of each split, -1 for what is left out.
      class_names: of the other labels.
      path: of the file.
    """
    there = np.unique(np.concatenate(list(labels.values())))
    for split, own in labels.items():
        if own.max(initial=-1) < 0:
            raise UserError(f"The {split} split of {path} has no image of the chosen classes.")
        missing = np.setdiff1d(there[there >= 0], own)
        if len(missing):
            what = {"train": "training"}.get(split, split)
            raise UserError(
                f"{path}: no {what} image of class {class_names[int(missing[0])]!r} is left; add "
                f"some, or leave the class out of data.classes."
            )


def _read(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Names of the images and labels, and these arrays with the class names; no others are read."""
    if path.suffix != ".npz" or not path.is_file():
        raise UserError(f"data.path {str(path)!r} is no .npz file; {_HOW}.")
    try:
        found = npz.names(path)
        names = next((n for n in (*_SPLIT, *_WHOLE) if all(k in found for k in n)), None)
        if names is None:
            listed = shown(", ".join(sorted(found)), 400)
            raise UserError(f"{path} holds {listed or 'nothing'}, but {_HOW}.")
        return names, npz.read(path, (*names, "class_names"))
    except (OSError, ForeignFileError) as e:
        raise UserError(f"{path} cannot be read ({e}); write it again with numpy.savez.") from e


def _check(
    path: Path, images: str, pixels: np.ndarray, labels: str, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if classes.ndim == 2 and classes.shape[1] == 1:  # as CIFAR's labels in keras.datasets
        classes = classes[:, 0]
    good = (
        pixels.dtype == np.uint8
        and (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] in (1, 3)))
        and pixels.size > 0
        and classes.ndim == 1
        and np.issubdtype(classes.dtype, np.integer)
        and len(pixels) == len(classes) > 0
        and classes.min() >= 0
    )
    if not good:
        raise UserError(
            f"{path}: {images} {pixels.dtype} {pixels.shape} and {labels} {classes.dtype} "
            f"{classes.shape} do not fit; {_HOW}."
        )
    return pixels, classes


def _as_int32(path: Path, label_name: str, labels: np.ndarray, most: int) -> np.ndarray:
    """Labels int32; raises a UserError, before the cast, for one of `most` or more."""
    if labels.max() >= most:
        raise UserError(
            f"{path}: {label_name} has the label {labels.max()}, but there are {most} training "
            f"images or class names; labels count from 0, and every class has images."
        )
    return labels.astype(np.int32)


def _stored_names(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    """Class names in the file; None if there are none."""
    stored = arrays.get("class_names")
    if stored is None:
        return None
    names: tuple[str, ...] = ()
    if stored.ndim == 1 and stored.dtype.kind in "US":
        try:
            texts = stored if stored.dtype.kind == "U" else np.char.decode(stored, "utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{path} has class_names that are not UTF-8 ({e}).") from e
        names = tuple(str(name) for name in texts)
    if not names or "" in names:
        raise UserError(
            f"{path} has class_names {stored.dtype} {stored.shape}; they must be text, one name "
            f"that is not empty for each class."
        )
    return names


def _class_names(path: Path, names: tuple[str, ...], splits) -> tuple[str, ...]:
    count = int(max(labels.max() for _, labels in splits.values())) + 1
    names = names or tuple(str(c) for c in range(count))
    if len(names) < count or len(set(names)) < len(names):
        listed = shown(", ".join(names[:5]), 200)
        raise UserError(
            f"{path} has {count} classes and the class names {listed}, ...: "
            f"{len(names)}, {len(set(names))} of them different; name each class once."
        )
    return names
