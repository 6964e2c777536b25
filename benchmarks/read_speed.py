"""Times reading a folder for ranking against bare decoding, and measures its memory.

    python benchmarks/read_speed.py [FILES [SIDE [WORKERS]]]

Makes FILES JPEG files of 500x375 px in a temporary folder and brings them to SIDE px: with bare
processes that decode and drop the pixels, through `delt_jax.data.batches`, and through the rank
stage with a small teacher.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from delt_jax import models
from delt_jax.data import Normalisation, batches, open_source
from delt_jax.models import ModelSpec
from delt_jax.recipe import DataRecipe
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib

DISTINCT = 50


def make_folder(root: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    for i in range(DISTINCT):
        ripples = sum(
            np.sin(x * draw.uniform(0, 0.2) + y * draw.uniform(0, 0.2))[..., None]
            * draw.uniform(0, 40, 3)
            for _ in range(6)
        )
        pixels = np.clip(128 + ripples + draw.normal(0, 8, (375, 500, 3)), 0, 255).astype(np.uint8)
        first = root / f"class {i % 10}" / f"{i:06}.jpg"
        first.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(first, quality=90)
        content = first.read_bytes()
        for j in range(i + DISTINCT, count, DISTINCT):
            (first.parent / f"{j:06}.jpg").write_bytes(content)


def decode_all(examples, indices: np.ndarray) -> None:
    for i in range(0, len(indices), 32):
        examples.images(indices[i : i + 32])


def bare(examples, workers: int) -> None:
    """Decodes in processes that return nothing."""
    parts = np.array_split(np.arange(len(examples)), workers)
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=decode_all, args=(examples, part)) for part in parts]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


def streamed(examples) -> None:
    for _ in batches(examples, prediction.BATCH):
        pass


def ranked(examples, side: int) -> None:
    spec = ModelSpec("conv3", 10, side, 3, 4)
    model = models.create(spec)
    variables = teacher_lib.init_shapes(spec)
    variables = {k: _zeros(v) for k, v in variables.items()}
    images = (pixels for _, pixels in batches(examples, prediction.BATCH))
    prediction.predict(model, variables, Normalisation((0.5,) * 3, (0.2,) * 3), images)


def _zeros(tree):
    if isinstance(tree, dict):
        return {k: _zeros(v) for k, v in tree.items()}
    return np.ones(tree.shape, tree.dtype)


class Memory(threading.Thread):
    """The largest memory of this process and its children together, in MiB (Linux)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:  # noqa: D102
        while True:
            self.peak = max(self.peak, sum(_share(p) for p in (Path("/proc/self"), *_children())))
            time.sleep(0.2)


def _children() -> list[Path]:
    listed = (_text(task / "children") for task in Path("/proc/self/task").iterdir())
    return [Path("/proc") / pid for text in listed for pid in text.split()]


def _share(process: Path) -> float:
    lines = _text(process / "smaps_rollup").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process or thread has ended
        return ""


def main() -> None:
    count, side, workers = (
        int(v) for v in (sys.argv[1:] + ["20000", "224", "2"][len(sys.argv) - 1 :])
    )
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), count)
        recipe = DataRecipe(
            name="folder",
            path=folder,
            image_size=side,
            channels=3,
            fit="centre",
            test_share=0.001,
            workers=workers,
        )
        examples = open_source(recipe).train
        rates = {}
        once = (
            ("bare decoding", lambda: bare(examples, workers)),
            ("batches", lambda: streamed(examples)),
        )
        # Twice, because other work on the machine changes the rates.
        for name, read in (*once, *once, ("rank, small teacher", lambda: ranked(examples, side))):
            memory = Memory()
            memory.start()
            started, before = time.perf_counter(), sum(os.times()[:4])
            read()
            rates[name] = len(examples) / (time.perf_counter() - started)
            share = rates[name] / rates["bare decoding"]
            work = 1000 * (sum(os.times()[:4]) - before) / len(examples)
            print(
                f"{name:<20} {rates[name]:7.0f} images/s {share:5.0%}  {work:5.2f} ms of CPU per "
                f"image  peak {memory.peak:5.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
