"""Parquet files with embedded images, as the Hugging Face Hub and its `datasets` store them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, write_sidecar
from delt_jax.store import files, pictures

_TABLE = "data/train-00000-of-00001.parquet"
_OURS = b"delt_jax"  # key of the manifest in the schema's metadata


def detect(path: Path) -> bool:
    """Whether this is a parquet file, or a folder with parquet files as on the Hub."""
    if path.is_dir():
        return bool(_tables(path))
    return path.suffix == ".parquet" and path.is_file()


def read(path: Path) -> Stored:
    """Reads the columns image, label and, if there is one, soft_label of the train split.

    Raises:
      UserError: if a file is damaged or lacks the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [path] if path.is_file() else _tables(path)
    try:
        table = pa.concat_tables([pq.read_table(t, partitioning=None) for t in tables])
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{tables[0]} cannot be read ({type(e).__name__}: {e}).") from e
    missing = [name for name in ("image", "label") if name not in table.column_names]
    if missing:
        raise UserError(
            f"{tables[0]} has the columns {', '.join(table.column_names)} but no "
            f"{' and '.join(missing)}."
        )
    try:
        contents = [row["bytes"] for row in table["image"].to_pylist()]
        labels = np.array(table["label"].to_pylist(), np.int64)
        soft = None
        if "soft_label" in table.column_names:
            soft = np.array(table["soft_label"].to_pylist(), np.float32)
        class_names, manifest = _about(table.schema.metadata or {})
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(
            f"{tables[0]} is not in the Hub's layout, an image column with bytes and a label "
            f"column of whole numbers ({type(e).__name__}: {e})."
        ) from e
    names = [f"{tables[0]}, row {i}" for i in range(len(contents))]
    images = [pictures.decode(c, name) for c, name in zip(contents, names, strict=True)]
    if not images:
        raise UserError(f"{tables[0]} has no rows.")
    return Stored(pictures.stack(images, names), labels, class_names, manifest, soft)


def write(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes `data/train-00000-of-00001.parquet` and a dataset card into an empty folder."""
    del quality  # lossless
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"bytes": pictures.encode(image), "path": f"{i // content.ipc:05}_{i % content.ipc:05}.png"}
        for i, image in enumerate(content.images)
    ]
    columns = {
        "image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(content.labels, pa.int64()),
    }
    if content.soft_labels is not None:
        columns["soft_label"] = pa.array(list(content.soft_labels), pa.list_(pa.float32()))
    features = _features(content)
    metadata = {
        b"huggingface": json.dumps({"info": {"features": features}}),
        _OURS: json.dumps(content.manifest, ensure_ascii=False),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink)
    table = sink.getvalue().to_pybytes()
    (folder / _TABLE).parent.mkdir()
    files.write_bytes(folder / _TABLE, table)
    size = sum(len(row["bytes"]) for row in rows)
    files.write_bytes(folder / "README.md", _card(content, size, len(table)).encode())
    write_sidecar(folder, content)


def _tables(path: Path) -> list[Path]:
    """Parquet files of a folder or its data/; only those of the train split, if there are any."""
    found = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    return [p for p in found if p.name.startswith("train")] or found


def _features(content: DistilledSet) -> dict[str, Any]:
    """Description of the columns in the words of `datasets`."""
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(content.class_names), "_type": "ClassLabel"},
    }
    if content.soft_labels is not None:
        number = {"dtype": "float32", "_type": "Value"}
        features["soft_label"] = {"feature": number, "_type": "Sequence"}
    return features


def _about(metadata: dict[bytes, bytes]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names and manifest from a schema's metadata; empty if they are not there."""
    info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    names = info.get("features", {}).get("label", {}).get("names", ())
    return tuple(map(str, names)), dict(json.loads(metadata.get(_OURS, b"{}")))


def _card(content: DistilledSet, image_bytes: int, file_bytes: int) -> str:
    """The README of a data set on the Hub: a YAML header, and how the set was made."""
    import huggingface_hub  # slow to import

    count, height, width, channels = content.images.shape
    names = {str(i): name for i, name in enumerate(content.class_names)}
    columns: list[dict[str, Any]] = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    if content.soft_labels is not None:
        columns.append({"name": "soft_label", "sequence": "float32"})
    header = huggingface_hub.DatasetCardData(
        license="unknown",
        task_categories=["image-classification"],
        tags=["dataset-distillation"],
        pretty_name="Distilled set",
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
    soft = (
        "\n`soft_label` holds a teacher's logits of each image.\n"
        if content.soft_labels is not None
        else ""
    )
    return f"""---
{header.to_yaml()}
---

# Distilled set

{count} synthetic images, {content.ipc} of each of {len(content.class_names)} classes,
{width}x{height} px, {channels} channel(s), stored losslessly. Within a class the images are in
order: the first k of every class are a smaller set.
{soft}
{_making(content.manifest)}

Check the licence of the images that the set was made from before you share it: synthetic images
that started from real ones can still resemble them.
"""


def _making(manifest: dict[str, Any]) -> str:
    """A sentence on how the set was made, as far as the manifest tells."""

    def part(name: str) -> dict[str, Any]:
        return manifest[name] if isinstance(manifest.get(name), dict) else {}

    facts = []
    if "settings" in manifest:
        facts.append("made by delt_jax")
    if "layout" in part("imported"):
        facts.append(f"imported from the layout {manifest['imported']['layout']}")
    if "name" in (part("teacher").get("spec") or {}):
        facts.append(f"with the teacher {manifest['teacher']['spec']['name']}")
    if "image_iterations" in part("schedule"):
        facts.append(f"in {manifest['schedule']['image_iterations']} image-iterations")
    told = ", ".join(facts) or "how it was made is not recorded"
    return f"The set: {told}. `delt_jax.json` has the whole record."


def _size_category(count: int) -> str:
    """The Hub's category for a number of rows."""
    limits = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 10**6: "100K<n<1M"}
    return next((name for limit, name in limits.items() if count < limit), "1M<n<10M")
