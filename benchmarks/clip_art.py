"""Makes the folder that configs/clip_art.py reads out of the Open Clip Art Library.

apt install openclipart-png
python benchmarks/clip_art.py --out=runs/clip_art

Debian's package has 8,121 pictures in 22 folders, 0.18+dfsg. Of folders with 300 pictures or more
this takes 320, or all where there are fewer: each picture once, as many lie in several places;
none that lies in two of the classes; none above 50 megapixels, and none of a single colour. The
hash of what is drawn decides which, so everyone has the same.

Most drawings are transparent, and many are black. Readers of images drop transparency, which would
leave black on black. So each is put on white paper, a square of 128 px, and stored as PNG.
"""

import argparse
import hashlib
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = Path("/usr/share/openclipart/png")
LEAST, MOST = 300, 320  # pictures of a class
MEGAPIXELS = 50
SIDE = 128  # of the paper
PLAIN = 8  # levels; a picture whose channels vary by less shows nothing


def on_paper(file: Path) -> Image.Image | None:
    """A drawing in the middle of white paper, RGB; None where it is too large or shows nothing."""
    with Image.open(file) as image:
        if image.width * image.height > MEGAPIXELS * 10**6:
            return None
        drawing = image.convert("RGBA")
    drawing.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    paper = Image.new("RGBA", (SIDE, SIDE), "white")
    paper.alpha_composite(drawing, ((SIDE - drawing.width) // 2, (SIDE - drawing.height) // 2))
    picture = paper.convert("RGB")
    return picture if np.ptp(np.asarray(picture), axis=(0, 1)).max() >= PLAIN else None


def found(package: Path) -> dict[str, dict[str, Image.Image]]:
    """The pictures of every folder with enough of them, by the hash of what they show."""
    classes = {}
    for folder in sorted(path for path in package.iterdir() if path.is_dir()):
        files = sorted(folder.rglob("*.png"))
        if len(files) >= LEAST:
            pictures = filter(None, map(on_paper, files))
            classes[folder.name] = {
                hashlib.sha256(picture.tobytes()).hexdigest(): picture for picture in pictures
            }
    return classes


def chosen(classes: Mapping[str, Mapping[str, Image.Image]]) -> dict[str, list[Image.Image]]:
    """At most `MOST` pictures of each class, none of which another class has, too."""
    holders = Counter(digest for pictures in classes.values() for digest in pictures)
    taken: dict[str, list[Image.Image]] = defaultdict(list)
    for name, pictures in classes.items():
        own = sorted(digest for digest in pictures if holders[digest] == 1)
        taken[name] = [pictures[digest] for digest in own[:MOST]]
    return dict(taken)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="where the pictures are")
    asked = parser.parse_args(argv)
    if not asked.package.is_dir():
        sys.exit(f"clip_art: {asked.package} is no folder; install Debian's openclipart-png.")
    if asked.out.exists():
        sys.exit(f"clip_art: {asked.out} is there already; remove it or name another --out.")
    Image.MAX_IMAGE_PIXELS = None  # `MEGAPIXELS` is the limit
    partial = asked.out.with_name(f"{asked.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, pictures in chosen(found(asked.package)).items():
        (partial / name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            picture.save(partial / name / f"{number:03d}.png")
        print(f"{name}: {len(pictures)}")
    partial.rename(asked.out)


if __name__ == "__main__":
    run(sys.argv[1:])
