"""The card of an exported set: what it is, how well it teaches, how to use it, and a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delt_jax.formats.distilled import DistilledSet
from delt_jax.store import pictures
from delt_jax.store.schema import mismatch

SHEET = "sheet.png"
_SHOWN = (10, 10)  # classes and images of each on the picture
_SIDE = 96  # pixels that an image is enlarged to at least
_GAP = 2  # pixels between images
_ROW = {"student": str, "regime": str, "images": str, "ipc": int, "seeds": int}
_ROW |= {"last_mean": float, "last_std": float}
_REPORT: dict[str, Any] = {  # what the card reads of it
    "data?": str,
    "teacher?": {"accuracy?": (float, type(None))},
    "scores?": [_ROW],
    "protocols?": [str],
    "scored_on?": str,
    "verdict?": [str],
    "made?": {"date?": str},
}
_IN_WORDS = {"online": "the teacher, for every view", "stored": "the teacher, stored for views"}
_IN_WORDS |= {"fixed": "`soft_label`", "learned": "`learned_label`", "hard": "`label`"}


def sheet(content: DistilledSet) -> bytes:
    """A PNG of the first images of the first classes, a class to a row."""
    images = content.to_look_at().images
    rows, columns = min(_SHOWN[0], len(content.class_names)), min(_SHOWN[1], content.ipc)
    times = max(1, math.ceil(_SIDE / max(images.shape[1:3])))
    grid = images.reshape(len(content.class_names), content.ipc, *images.shape[1:])
    shown = grid[:rows, :columns].repeat(times, axis=2).repeat(times, axis=3)
    padded = np.pad(shown, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    height, width = padded.shape[2:4]
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)
    return pictures.encode(joined)


def card(content: DistilledSet, image_bytes: int, file_bytes: int) -> str:
    """The README of a data set on the Hugging Face Hub: a YAML header, and the card in words.

    Args:
      content: the set; the entry "report" of its manifest has what a run has measured.
      image_bytes: of all pictures.
      file_bytes: of the table.
    """
    report = _report(content.manifest)
    count, height, width, channels = content.images.shape
    title = f"{report['data']}, distilled" if report.get("data") else "Distilled set"
    names = ", ".join(content.class_names[:20]) + (", ..." if len(content.class_names) > 20 else "")
    parts = [
        f"---\n{_header(content, title, image_bytes, file_bytes)}\n---",
        f"# {title}",
        f"![The first images of each class]({SHEET})",
        f"{count} synthetic images, {content.ipc} of each of {len(content.class_names)} classes, "
        f"{width}x{height} px, {channels} channel(s), {_kept(content)}. Within a class the "
        f"images are in order: the first k of every class are a smaller set.",
        f"Classes: {names}.",
        *_scores(report, _word(content.manifest)),
        *_use(content),
        "## How it was made",
        _making(content.manifest, report),
        "## Before you share it",
        "Check the licence of the images that the set was made from: synthetic images that "
        "started from real ones can still resemble them.",
    ]
    return "\n\n".join(parts) + "\n"


def _report(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has measured, as far as it has the shape that runs write; sets of others may not.

    Names and sentences stay in their line and cell of the card.
    """
    report = manifest.get("report")
    if not isinstance(report, dict) or mismatch(report, _REPORT):
        return {}
    return _in_lines(report)


def _in_lines(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split()).replace("|", "/")
    if isinstance(value, dict):
        return {name: _in_lines(each) for name, each in value.items()}
    return [_in_lines(each) for each in value] if isinstance(value, list) else value


def _header(content: DistilledSet, title: str, image_bytes: int, file_bytes: int) -> str:
    import huggingface_hub  # slow to import

    names = {str(i): name for i, name in enumerate(content.class_names)}
    columns: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"}
        if content.preprocessing is None
        else {"name": "image", "sequence": "float32"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if content.soft_labels is not None:
        columns.append({"name": "soft_label", "sequence": "float32"})
    if content.learned_labels is not None:
        columns.append({"name": "learned_label", "sequence": "float32"})
    count = len(content.images)
    data = huggingface_hub.DatasetCardData(
        license="unknown",
        task_categories=["image-classification"],
        tags=["dataset-distillation"],
        pretty_name=title,
        size_categories=[_size_category(count)],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ],
        dataset_info={
            "features": columns,
            "splits": [{"name": "train", "num_bytes": image_bytes, "num_examples": count}],
            "download_size": file_bytes,
            "dataset_size": image_bytes,
        },
    )
    return data.to_yaml()


def _word(manifest: Mapping[str, Any]) -> str:
    """What images of the set are called beside real ones."""
    if "imported" in manifest:
        return "distilled"
    return "learned" if manifest.get("synthesis") == "learn" else "recovered"


def _scores(report: Mapping[str, Any], word: str) -> list[str]:
    """What students reached, beside random real images of equal number."""
    rows = report.get("scores") or ()
    if not rows:
        return []
    lines = [
        "| student | trained on | images per class | labels | accuracy, % | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ± {100 * row['last_std']:.2f}" if row["seeds"] > 1 else ""
        images = word if row["images"] == "recovered" else row["images"]  # its name in files
        cells = [row["student"], images, str(row["ipc"] or "all")]
        cells += [_IN_WORDS.get(row["regime"], row["regime"])]
        cells += [f"{100 * row['last_mean']:.2f}{spread}", str(row["seeds"])]
        lines.append(f"| {' | '.join(cells)} |")
    said = f"Accuracy on the {report.get('scored_on', 'test images')} after the last epoch."
    verdict = [" ".join(report["verdict"])] if report.get("verdict") else []
    protocols = [f"- {protocol}" for protocol in report.get("protocols", ())]
    return ["## What it teaches", *verdict, "\n".join(lines), "\n".join([said, "", *protocols])]


def _use(content: DistilledSet) -> list[str]:
    """Code that loads the set."""
    constants = content.manifest.get("normalisation")
    if content.preprocessing is not None:
        return _use_of_floats(content)
    parts = [
        "## Use it",
        '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH", split="train")'
        '\ndata[0]["image"], data.features["label"].int2str(data[0]["label"])\n```',
        '```python\nimport delt_jax  # for JAX and torch alike\n\ndata = delt_jax.load("PATH")\n'
        "data.images, data.labels  # uint8 [N, H, W, C], int32 [N]\n```",
        "`PATH` is this folder, or for `datasets` its name on the Hub.",
    ]
    if content.soft_labels is not None:
        parts.append("`soft_label` holds a teacher's logits of each image.")
    if constants is not None and not mismatch(constants, {"mean": [float], "std": [float]}):
        mean, std = (_numbers(constants[name]) for name in ("mean", "std"))
        parts.append(f"Students saw (pixel / 255 - {mean}) / {std}, channel by channel.")
    return parts


def _kept(content: DistilledSet) -> str:
    """How images are stored, as a phrase."""
    if content.preprocessing is None:
        return "stored losslessly"
    return "stored as float32, which go beyond black and white; the picture above is clipped"


def _use_of_floats(content: DistilledSet) -> list[str]:
    """Code that loads a set of float images, and what its students must see."""
    space = content.preprocessing
    assert space is not None
    height, width, channels = content.images.shape[1:]
    mean, std = (_numbers(v) for v in (space.normalisation.mean, space.normalisation.std))
    then = ""
    if space.has_unit_length:
        then = ", then each image minus its own mean, scaled to unit length"
    if space.matrix is not None:
        then += (
            f", then flattened as [H, W, C], minus `centre`, times `matrix` of `whitening.npz` "
            f"({space.kind})"
        )
    parts = [
        "## Use it",
        '```python\nimport delt_jax  # for JAX and torch alike\n\ndata = delt_jax.load("PATH")\n'
        "data.images, data.labels  # float32 [N, H, W, C], int32 [N]\n"
        "data.preprocessing(pixels)  # what test images go through\n```",
        '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH", split="train")'
        f'.with_format("numpy")\nimages = data[:]["image"].reshape(-1, {height}, {width}, '
        f'{channels})\ndata.features["label"].int2str(data[:]["label"])\n```',
        "`PATH` is this folder, or for `datasets` its name on the Hub. Students train on "
        f"`image` as it is, and are tested on images that are brought there: "
        f"(pixel / 255 - {mean}) / {std}, channel by channel{then}.",
    ]
    if content.learned_labels is not None:
        parts.append(
            f"`learned_label` holds the label of each image that was learned with it "
            f"({content.label_form})."
        )
    if content.decoding is not None and content.decoding.factor > 1:
        n = content.decoding.factor
        parts.append(
            f"Every stored image is {n} x {n} smaller ones, each enlarged before it is used: "
            f"`data.expand(data.labels)` gives them."
        )
    if content.decoding is not None and content.decoding.mirrored:
        parts.append(
            "Students train on a mirrored copy of every image, too: `data.expand(data.labels)` "
            "gives all."
        )
    return parts


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"


def _making(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """A sentence on how the set was made, as far as the manifest tells."""

    def part(name: str) -> dict[str, Any]:
        return manifest[name] if isinstance(manifest.get(name), dict) else {}

    facts = []
    if "settings" in manifest:
        facts.append("made by delt_jax")
    if "layout" in part("imported"):
        facts.append(f"imported from the layout {manifest['imported']['layout']}")
    if "name" in (part("teacher").get("spec") or {}):
        known = report.get("teacher", {}).get("accuracy")
        accuracy = "" if known is None else f" ({100 * known:.2f} %)"
        facts.append(f"with the teacher {manifest['teacher']['spec']['name']}{accuracy}")
    if _word(manifest) == "learned" and isinstance(manifest.get("method"), str):
        through = part("network").get("name")
        steps = part("settings").get("learn", {}).get("steps")
        facts.append(f"learned by {manifest['method']}{f' through {through}' if through else ''}")
        facts += [f"in {steps:,} steps"] if isinstance(steps, int) else []
    if "image_iterations" in part("schedule"):
        facts.append(f"in {manifest['schedule']['image_iterations']:,} image-iterations")
    if "date" in report.get("made", {}):
        facts.append(f"on {report['made']['date']}")
    told = ", ".join(facts) or "how it was made is not recorded"
    return f"The set: {told}. `delt_jax.json` has the whole record."


def _size_category(count: int) -> str:
    """The Hub's category for a number of rows."""
    limits = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 10**6: "100K<n<1M"}
    return next((name for limit, name in limits.items() if count < limit), "1M<n<10M")
