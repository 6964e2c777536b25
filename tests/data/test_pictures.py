"""Reading pictures: every format, odd files, files that are none, and limits of size."""

import contextlib
import gzip
import io
import os
import socket
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_folder import fill, open_folder

from delt_jax.config import default_config, vary
from delt_jax.data import fit, open_source
from delt_jax.data.fit import decode, fit_image
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import pictures, regular
from delt_jax.store.pictures import ENDINGS, MOST_PIXELS, TooLargeError, UnreadableError

RED = (200, 30, 10)
# Formats that Pillow writes, and how; the others of ENDINGS it only reads.
WRITTEN = {
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100},
    "JPEG": {"quality": 100, "subsampling": 0},
    "JPEG2000": {"irreversible": False},
}
READ_ONLY = ("SUN", "PSD")


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# --- formats ---


@pytest.mark.parametrize("ending", [e for e, f in ENDINGS.items() if f not in READ_ONLY])
def test_every_ending_is_read(tmp_path, ending):
    kind = ENDINGS[ending]
    fill(tmp_path / "other", [1, 2])
    (tmp_path / "red").mkdir()
    image = Image.new("RGB", (16, 16), RED)
    if ending in (".pgm", ".pbm"):
        image = Image.new("L", (16, 16), 91)
    for name in ("a" + ending, "b" + ending.upper()):
        (tmp_path / "red" / name).write_bytes(encoded(image, kind, **WRITTEN.get(kind, {})))
    source = open_folder(tmp_path, image_size=16, channels=3)
    assert source.notes == ()
    for split in (source.train, source.test):
        (i,) = np.flatnonzero(split.labels == 1)
        pixel = split.images(np.array([i]))[0, 8, 8]
        wanted = (91, 91, 91) if image.mode == "L" else RED
        np.testing.assert_allclose(pixel, wanted, atol=4)


def test_the_table_of_endings_is_pillows():
    Image.init()
    known = Image.registered_extensions()
    for ending, kind in ENDINGS.items():
        assert known[ending] == ("MPO" if ending == ".mpo" else kind)
        assert kind in Image.OPEN
    left_out = {kind for ending, kind in known.items() if ending not in ENDINGS}
    assert left_out >= {"EPS", "WMF", "PDF", "MPEG", "HDF5"}
    for kind in set(ENDINGS.values()):  # no ending of a format that is read is forgotten
        mine = {e for e, k in ENDINGS.items() if k == kind}
        assert {e for e, k in known.items() if k == kind} - mine <= {".pfm"}, kind


def test_sun_and_photoshop_files():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    sun = struct.pack(">8I", 0x59A66A95, 4, 4, 24, 48, 1, 0, 0) + pixels[..., ::-1].tobytes()
    np.testing.assert_array_equal(np.asarray(decode(sun, "a.ras")), pixels)
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 4, 4, 8, 3) + bytes(12)
    planes = np.moveaxis(pixels, 2, 0).tobytes()
    photoshop = head + struct.pack(">H", 0) + planes
    np.testing.assert_array_equal(np.asarray(decode(photoshop, "a.psd")), pixels)


def test_formats_that_need_other_programs_are_never_opened(tmp_path):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(UnreadableError, match="cannot identify"):
        decode(script, "a.eps")
    with pytest.raises(UserError, match="is no picture, or damaged"):
        pictures.decode(script, "a.png")


def test_a_format_without_signature_is_read_only_by_its_ending():
    tga = encoded(Image.new("RGB", (4, 4), RED), "TGA")
    assert decode(tga, "x/A.TGA").size == (4, 4)
    with pytest.raises(UnreadableError):
        decode(tga, "a.png")
    assert decode(encoded(Image.new("RGB", (4, 4), RED), "GIF"), "a.tga").size == (4, 4)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255))]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        pixel = np.asarray(decode(content).convert("RGB"))[4, 4]
        np.testing.assert_allclose(pixel, RED, atol=8, err_msg=kind)


def test_tiff_orientation_and_16_bits():
    halves = np.zeros((8, 8), np.uint8)
    halves[:, :4] = 255  # left is white; orientation 6 turns it up
    turned = np.asarray(decode(encoded(Image.fromarray(halves), "TIFF", tiffinfo={274: 6})))
    assert turned[:4].min() == 255
    assert turned[4:].max() == 0
    deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16).repeat(300, 0))
    for kind in ("TIFF", "PNG"):
        scaled = np.asarray(decode(encoded(deep, kind)))
        np.testing.assert_array_equal(scaled, [[0, 1, 255]] * 300, err_msg=kind)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.zeros((4, 4), np.float32), "unknown range or floating-point"),
        (np.full((4, 4), 70000, np.int32), "unknown range"),
        (np.full((4, 4), -5, np.int32), "unknown range"),
    ],
)
def test_pixels_of_unknown_range_are_refused(pixels, says):
    with pytest.raises(UnreadableError, match=says):
        decode(encoded(Image.fromarray(pixels), "TIFF"))


def test_cielab_is_refused_or_converted_but_never_a_traceback():
    with pytest.raises(UnreadableError, match="LAB"):
        decode(encoded(Image.new("LAB", (4, 4)), "TIFF"))


# --- limits ---


def png(width: int, height: int, rows: bytes | None = None, depth: int = 8) -> bytes:
    """A grey PNG of any size whose pixels, unless given, are all zero and packed tightly."""
    rows = bytes(height * (1 + width * depth // 8)) if rows is None else rows

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    packed = zlib.compress(rows, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("sides", [(20000, 20000), (13500, 13500), (2**31 - 1, 1), (1, 2**30)])
def test_a_decompression_bomb_is_unreadable(sides):
    bomb = png(*sides, rows=b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as a line on stderr would be
        with pytest.raises(TooLargeError, match=f"^{sides[0] * sides[1]:,} px$"):
            decode(bomb)
        with pytest.raises(UserError, match=rf"x\.png has .* px, more than {MOST_PIXELS:,}; make"):
            pictures.decode(bomb, "x.png")


def test_the_limit_of_pixels_can_be_set(tmp_path):
    for name, sides in (("a", [30, *[20] * 8]), ("b", [20, 20])):
        (tmp_path / name).mkdir()
        for number, side in enumerate(sides):
            (tmp_path / name / f"{number}.png").write_bytes(png(side, 20))

    def opened(**settings):
        recipe = {"name": "folder", "path": str(tmp_path), "image_size": 8, "workers": 0}
        return open_source(DataRecipe(**recipe | settings))

    assert opened(max_pixels=600).train.images(np.arange(8)).shape == (8, 8, 8, 1)
    source = opened(max_pixels=599)
    split = source.train if "a/0.png" in source.train.names else source.test
    with pytest.raises(
        UserError, match=r"/a/0\.png has 600 px, and data[.]max_pixels allows 599; "
    ):
        split.images(np.arange(len(split)))
    skipped = opened(max_pixels=599, unreadable="skip")
    assert "of these, 1 with more pixels than data.max_pixels, 599" in skipped.notes


def test_a_raised_limit_is_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # and reset it
    header = pictures.open_picture(io.BytesIO(png(20000, 20000, rows=b"")), "", 4 * 10**8)
    assert header.size == (20000, 20000)
    with pytest.raises(TooLargeError, match=r"^400,040,001 px$"):
        pictures.open_picture(io.BytesIO(png(20001, 20001, rows=b"")), "", 4 * 10**8)
    with pytest.raises(TooLargeError, match=r"^400,000,000 px$"):  # others keep the usual one
        pictures.open_picture(io.BytesIO(png(20000, 20000, rows=b"")))


def test_large_pictures_below_the_limit_bring_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = pictures.open_picture(io.BytesIO(png(12000, 12000, rows=b"")))
        assert header.size == (12000, 12000)
        with pytest.raises(UnreadableError, match=r"truncated|incomplete|broken"):
            decode(png(10000, 9000, rows=b""))


@pytest.mark.parametrize("sides", [(0, 8), (8, 0)])
def test_a_picture_without_pixels_is_unreadable(sides):
    with pytest.raises(UnreadableError):
        decode(png(*sides))
    with pytest.raises(UserError, match=r"x\.png is no picture, or damaged"):
        pictures.decode(png(*sides), "x.png")


def hostile_text() -> bytes:
    about = PngImagePlugin.PngInfo()
    about.add_itxt("note", "x" * 10**8, zip=True)
    return encoded(Image.new("L", (4, 4)), "PNG", pnginfo=about)


def hostile_profile() -> bytes:
    return encoded(Image.new("L", (4, 4)), "PNG", icc_profile=bytes(10**8))


@pytest.mark.parametrize("make", [hostile_text, hostile_profile])
def test_a_chunk_that_unpacks_to_100_mb_is_not_unpacked(make):
    content = make()
    tracemalloc.start()
    with contextlib.suppress(UnreadableError):
        decode(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e7


def outcome(content: bytes, name: str) -> tuple[Image.Image | None, str]:
    """The picture, or why there is none."""
    try:
        return decode(content, name), ""
    except UnreadableError as e:
        return None, str(e)


@pytest.mark.parametrize("kind", sorted({*ENDINGS.values()} - {*READ_ONLY}))
def test_damaged_files_are_unreadable_or_read_never_anything_else(kind):
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
    content = encoded(image, kind)
    name = "a" + next(e for e, k in ENDINGS.items() if k == kind)
    for n in range(60):
        spoilt = bytearray(content)
        if n % 2:
            spoilt = spoilt[: int(draw.integers(len(spoilt)))]
        for i in draw.integers(0, max(len(spoilt), 1), n % 7) if spoilt else ():
            spoilt[i] = int(draw.integers(256))
        read, why = outcome(bytes(spoilt), name)
        if read is None:
            assert why.strip()
            assert "\n" not in why
        else:
            assert fit_image(read, 8, 3, "resize").shape == (8, 8, 3)


# --- extreme shapes ---


@pytest.mark.parametrize(
    ("width", "height", "size"), [(100_000, 1, 224), (1, 100_000, 224), (20_000, 1, 128)]
)
@pytest.mark.parametrize("how", ["resize", "centre"])
def test_a_line_of_pixels_is_cropped_before_it_is_scaled(width, height, size, how, monkeypatch):
    sizes = []
    resize = Image.Image.resize

    def watched(image, to, *rest, **more):
        sizes.append(to[0] * to[1])
        return resize(image, to, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = np.zeros((height, width), np.uint8)
    pixels[height * 2 // 5 : height * 3 // 5 + 1, width * 2 // 5 : width * 3 // 5 + 1] = 77
    fitted = fit_image(Image.fromarray(pixels), size, 3, how)
    np.testing.assert_array_equal(fitted, np.full((size, size, 3), 77))
    assert max(sizes) <= 2**24


@pytest.mark.parametrize("how", ["resize", "centre"])
def test_cropping_first_shows_what_scaling_first_shows(how, monkeypatch):
    draw = np.random.default_rng(0)
    for _ in range(60):
        height, width = draw.integers(1, 40, 2)
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
        size = int(draw.integers(1, 70))
        whole = fit_image(image, size, 3, how)
        with monkeypatch.context() as m:
            m.setattr(fit, "_SCALED_PIXELS", 0)  # house: private, because the limit is the matter
            m.setattr(fit, "_SCALED_SQUARES", 0)  # house: private, because the limit is the matter
            part = fit_image(image, size, 3, how)
        assert np.abs(whole.astype(int) - part).max() <= 1


# --- what is no regular file ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        before = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is at most 108 bytes
        s.bind(path.name)
        os.chdir(before)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pipe, "a named pipe, not a file"),
        (link_to_pipe, "a named pipe, not a file"),
        (unix_socket, "a socket, not a file"),
        (device, "a device, not a file"),
        (circle, "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_unreadable_and_never_waited_for(tmp_path, make, says):
    for name in ("a", "b"):
        fill(tmp_path / name, range(5))
    make(tmp_path / "a/zz.png")
    source = open_folder(tmp_path, test_share=0.01)
    with pytest.raises(UserError, match=rf"a/zz\.png cannot be read as an image \({says}\)"):
        source.train.images(np.arange(len(source.train)))
    kept = open_folder(tmp_path, unreadable="skip")
    assert len(kept.train) + len(kept.test) == 10
    assert "1 unreadable files are left out" in kept.notes[-1]
    assert kept.fingerprint == open_folder(tmp_path, unreadable="skip").fingerprint


def test_a_pipe_as_list_of_classes_is_refused(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, range(3))
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(UserError, match=r"data\.classes .* cannot be read .*a named pipe"):
        open_folder(tmp_path, classes=str(tmp_path / "classes.txt"))


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "hole.png"
    with open(path, "wb") as f:
        f.truncate(10**12)
    with pytest.raises(OSError, match="1000000000000 bytes, more than 1073741824"):
        regular.read_bytes(path, pictures.MOST_BYTES)


def test_idx_sizes_are_bounded_before_anything_is_allocated(tmp_path):
    from delt_jax.data.idx import read_idx

    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 10**9, 1000, 1000)
    for name, content in (("plain", header + bytes(9)), ("gz", gzip.compress(header + bytes(9)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"asks for 1000000000000016: it is truncated"):
            read_idx(tmp_path / name)
    bomb = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 4) + bytes(5 * 10**7))
    (tmp_path / "bomb").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"holds 13 or more bytes, but its header .* asks for 12"):
        read_idx(tmp_path / "bomb")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    (tmp_path / "axes").write_bytes(struct.pack(">BBBB", 0, 0, 8, 255) + b"\0\0\0\1" * 255 + b"x")
    with pytest.raises(UserError, match="not an idx file"):
        read_idx(tmp_path / "axes")


# --- the path in a variant ---


@pytest.mark.parametrize(
    ("variants", "path", "ipc"),
    [
        ("folder=/a,b/c", "/a,b/c", 10),
        ("ipc50,folder=/a, b,c", "/a, b,c", 50),
        ("folder=/a:b,c,ipc50", "/a:b,c", 50),
    ],
)
def test_a_comma_in_the_path_of_a_variant(variants, path, ipc):
    config = default_config()
    vary(config, variants, {"ipc50": {"ipc": 50}}, __file__)
    assert (config.data.path, config.ipc) == (path, ipc)
