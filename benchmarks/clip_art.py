"""Makes the folder that configs/clip_art.py reads out of the Open Clip Art Library.

apt install openclipart-png
python benchmarks/clip_art.py --out=runs/clip_art

Debian's package has 8,121 pictures in 22 folders, 0.18+dfsg. Of folders with 300 pictures or more
this takes 320, or all where there are fewer: each picture once, as many lie in several places;
none that lies in two of the classes; none above 50 megapixels. The hash of their content decides
which, so everyone has the same. The folder holds links, and no picture is changed.
"""

import argparse
import hashlib
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

PACKAGE = Path("/usr/share/openclipart/png")
LEAST, MOST = 300, 320  # pictures of a class
MEGAPIXELS = 50


def found(package: Path) -> dict[str, dict[str, Path]]:
    """The pictures of every folder with enough of them, by the hash of their content."""
    classes = {}
    for folder in sorted(path for path in package.iterdir() if path.is_dir()):
        files = sorted(folder.rglob("*.png"))
        if len(files) >= LEAST:
            classes[folder.name] = {
                hashlib.sha256(file.read_bytes()).hexdigest(): file
                for file in files
                if is_small(file)
            }
    return classes


def is_small(file: Path) -> bool:
    """Whether a picture has at most `MEGAPIXELS`; reads its header alone."""
    with Image.open(file) as image:
        return image.width * image.height <= MEGAPIXELS * 10**6


def chosen(classes: Mapping[str, Mapping[str, Path]]) -> dict[str, list[Path]]:
    """At most `MOST` pictures of each class, none of which another class has, too."""
    holders = Counter(digest for pictures in classes.values() for digest in pictures)
    taken: dict[str, list[Path]] = defaultdict(list)
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
    Image.MAX_IMAGE_PIXELS = None  # headers alone are read
    partial = asked.out.with_name(f"{asked.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, files in chosen(found(asked.package)).items():
        (partial / name).mkdir(parents=True)
        for number, file in enumerate(files):
            (partial / name / f"{number:03d}_{file.name}").symlink_to(file.resolve())
        print(f"{name}: {len(files)}")
    partial.rename(asked.out)


if __name__ == "__main__":
    run(sys.argv[1:])
