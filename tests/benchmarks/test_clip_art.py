"""The folder of drawings: on paper, each once, and none that shows nothing."""

import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import clip_art


def drawing(file, colour, size=(40, 20), ground=(0, 0, 0, 0), dot=(10, 5)):
    """A dot on a ground, by default a transparent black one."""
    image = Image.new("RGBA", size, ground)
    ImageDraw.Draw(image).ellipse((*dot, dot[0] + 8, dot[1] + 8), fill=colour)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def test_black_on_transparent_is_black_on_white(tmp_path):
    drawing(tmp_path / "a.png", "black")
    picture = clip_art.on_paper(tmp_path / "a.png")
    assert (picture.mode, picture.size) == ("RGB", (128, 128))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    middle = ((128 - 40) // 2 + 14, (128 - 20) // 2 + 9)  # of the dot
    assert picture.getpixel(middle) == (0, 0, 0)


def test_large_drawings_are_shrunk_and_huge_ones_left_out(tmp_path, monkeypatch):
    drawing(tmp_path / "a.png", "red", (600, 300), ground=(0, 0, 255, 255))
    picture = clip_art.on_paper(tmp_path / "a.png")
    assert picture.getpixel((64, 31)) == (255, 255, 255)  # 64 of 128 rows are the drawing's
    assert picture.getpixel((64, 64)) == (0, 0, 255)
    monkeypatch.setattr(clip_art, "MEGAPIXELS", 0.1)
    assert clip_art.on_paper(tmp_path / "a.png") is None


@pytest.mark.parametrize("colour", ["white", (0, 0, 0, 0), (0, 0, 0, 5)])
def test_what_shows_nothing_is_left_out(tmp_path, colour):
    drawing(tmp_path / "a.png", colour)
    assert clip_art.on_paper(tmp_path / "a.png") is None


def test_each_picture_once_and_none_in_two_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clip_art, "LEAST", 3)
    monkeypatch.setattr(clip_art, "MOST", 2)
    package = tmp_path / "package"
    for name in ("food", "people"):
        drawing(package / name / "both.png", "black")
        for place in range(4):
            file = package / name / "below" / f"{place}.png"
            drawing(file, "red" if name == "food" else "blue", dot=(place, 2))
        drawing(package / name / "again.png", "red" if name == "food" else "blue", dot=(0, 2))
    drawing(package / "tools" / "one.png", "black")  # too few
    clip_art.run([f"--package={package}", f"--out={tmp_path}/out"])
    assert capsys.readouterr().out == "food: 2\npeople: 2\n"
    made = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert [str(path) for path in made] == [
        f"{name}/{number:03d}.png" for name in ("food", "people") for number in range(2)
    ]
    shown = {Image.open(tmp_path / "out" / path).tobytes() for path in made}
    assert len(shown) == 4
    with pytest.raises(SystemExit, match="is there already"):
        clip_art.run([f"--package={package}", f"--out={tmp_path}/out"])
