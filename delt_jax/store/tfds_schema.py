"""Checks the metadata of a TFDS directory before TFDS reads them.

`features.json` names Python classes, and TFDS imports the module of a class that it does not
know: a directory could run code. Only the classes of TFDS's own features are let through.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from delt_jax.store import regular
from delt_jax.store.foreign import ForeignFileError, parse_json, read_json

_FEATURES = "tensorflow_datasets.core.features."
_CLASSES = frozenset(
    _FEATURES + name
    for name in (
        *("tensor_feature.Tensor", "feature.Tensor", "scalar.Scalar", "text_feature.Text"),
        *("image_feature.Image", "labeled_image.LabeledImage", "class_label_feature.ClassLabel"),
        *("bounding_boxes.BBoxFeature", "sequence_feature.Sequence", "dataset_feature.Dataset"),
        *("features_dict.FeaturesDict", "top_level_feature.TopLevelFeature"),
        *("audio_feature.Audio", "video_feature.Video", "translation_feature.Translation"),
        "translation_feature.TranslationVariableLanguages",
    )
)
# Keys whose value is the name of a class, in all ways that TFDS and protobuf spell them.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_PROTO_KEYS = ("proto_cls",)
_COUNTS = ("numClasses", "num_classes", "dimensions")
_MOST = 1_000_000  # classes, or elements along a dimension
_TEXT_BYTES = 64 * 2**20  # of a file of class names


def check(folder: Path) -> None:
    """Checks all metadata in the directory of a prepared data set.

    Raises:
      ForeignFileError: if a class is not one of TFDS's own features, a count is impossible, or a
        file is no JSON or too large; the message names the file.
      OSError: if one cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        with regular.open_file(path):
            pass  # TFDS would wait for the other end of a pipe
        if path.suffix not in (".json", ".txt"):
            continue
        try:
            if path.suffix == ".txt":
                regular.read_bytes(path, _TEXT_BYTES)
                continue
            content = read_json(path)
            if not isinstance(content, dict):
                raise ForeignFileError("it holds no dictionary")
            if path.name == "features.json":
                _check_features(content)
            elif path.name == "dataset_info.json":
                _check_counts(folder, content)
        except ForeignFileError as e:
            raise ForeignFileError(f"{path} is refused: {e}") from e


def check_all(data_dir: Path, name: str) -> None:
    """Checks all prepared versions and configurations of a data set below a data directory.

    Raises:
      ForeignFileError: as `check`, and if the name of the default configuration leads elsewhere.
      OSError: if a file cannot be read.
    """
    dataset = data_dir / name
    common = dataset / ".config" / "metadata.json"
    if common.exists():
        default = read_json(common)
        named = default.get("default_config_name") if isinstance(default, dict) else ""
        if named is not None and not (isinstance(named, str) and _is_plain_name(named)):
            raise ForeignFileError(f"{common} is refused: its default configuration has no name")
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for features in dataset.glob(f"{depth}features.json"):
            check(features.parent)


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _check_features(content: Any) -> None:
    for key, value in _items(content):
        if key in _CLASS_KEYS and isinstance(value, str) and value not in _CLASSES:
            raise ForeignFileError(
                f"it names the class {value[:100]!r}, which is none of TFDS's features, and "
                f"nothing that data name is imported"
            )
        foreign = isinstance(value, str) and value and not value.startswith("tensorflow_datasets.")
        if key in _PROTO_KEYS and foreign:
            raise ForeignFileError(f"it names the type {value[:80]!r}, which is none of TFDS's")
        # Some features keep JSON within JSON, which TFDS parses in turn.
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            _check_features(parse_json(value))
        if key in _COUNTS:
            for number in value if isinstance(value, list) else [value]:
                if not isinstance(number, dict) and _whole(number) > _MOST:
                    raise ForeignFileError(f"its {key} is {str(number)[:30]}, more than {_MOST}")


def _check_counts(folder: Path, content: dict[str, Any]) -> None:
    """Raises a ForeignFileError if splits claim more examples than files could hold."""
    bytes_there = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    splits = content.get("splits", [])
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise ForeignFileError("its splits are no list of dictionaries")
    for split in splits:
        lengths = split.get("shardLengths", split.get("shard_lengths", []))
        if not isinstance(lengths, list):
            raise ForeignFileError("the lengths of its shards are no list")
        examples = sum(_whole(length) for length in lengths)
        if examples > bytes_there:
            raise ForeignFileError(
                f"a split claims {examples} examples, and all files have {bytes_there} bytes"
            )


def _whole(value: Any) -> int:
    """A whole number as protobuf's JSON has it, as text or as a number; null is 0."""
    if value is None or value == "":
        return 0
    try:
        number = float(value)
    except (TypeError, ValueError) as e:
        raise ForeignFileError(f"it has {str(value)[:30]!r} where a whole number belongs") from e
    if not math.isfinite(number) or number != int(number):
        raise ForeignFileError(f"it has {str(value)[:30]!r} where a whole number belongs")
    return int(number)


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of all dictionaries in JSON, whose depth is bounded."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _items(value)
    elif isinstance(content, list):
        for value in content:
            yield from _items(value)
