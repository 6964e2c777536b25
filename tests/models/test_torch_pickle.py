"""Torch's files as they are found, and as they are forged: read as data, or refused in a line."""

import argparse
import contextlib
import io
import json
import pathlib
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pickles import (
    EXPECTED,
    Attack,
    called,
    dictionary,
    legacy_storage,
    parameter,
    storage,
    tensor,
    write_legacy,
    write_pth,
)

from delt_jax.errors import UserError
from delt_jax.models import torch_files, torch_pickle
from delt_jax.store.foreign import ForeignFileError

W = tensor(storage())  # EXPECTED
OTHER = tensor(storage(), (3, 2), (1, 3))  # EXPECTED.T
INT = b"I3\n"


def read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict, and what was said."""
    said: list[str] = []
    return torch_files.read(path, said.append), said


def only_w(path: Path) -> list[str]:
    """Checks that the file has one tensor, fc.weight; returns what was said."""
    state, said = read(path)
    assert list(state) == ["fc.weight"]
    np.testing.assert_array_equal(state["fc.weight"], EXPECTED)
    return said


# --- as tools write them ---

STATE = dictionary(**{"fc.weight": W})


def prefixed(*prefixes: str) -> bytes:
    return dictionary(**{f"{prefix}fc.weight": W for prefix in prefixes})


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("model.module.net."),
        prefixed("backbone._orig_mod."),
        dictionary(**{"fc._orig_mod.weight": W}),
        dictionary(**{"n_averaged": tensor(storage(), (), ()), "module.fc.weight": W}),
        dictionary(state_dict=STATE, best_acc1=tensor(storage(), (), ()), optimizer=dictionary()),
        dictionary(state_dict=prefixed("model."), callbacks=dictionary(), epoch=INT),
        dictionary(net=prefixed("module."), acc=b"F93.1\n"),
        dictionary(model_state_dict=STATE, optimizer_state_dict=dictionary(state=dictionary(a=W))),
        dictionary(checkpoint=dictionary(model=STATE)),
        dictionary(resnet18=STATE, epoch=INT),
        dictionary(model=STATE, args=called("argparse.Namespace")),
        dictionary(model=STATE, best=called("numpy.core.multiarray.scalar", b"Vx\n", b"Vy\n")),
        dictionary(model=STATE, cfg=called("omegaconf.dictconfig.DictConfig"), at=b"N"),
        dictionary(model=STATE, where=called("pathlib.PosixPath", b"V/tmp\n")),
        dictionary(**{"fc.weight": W, "fc._extra_state": b"N", "epoch": INT}),
        dictionary(**{"fc.weight": parameter(W)}),
        dictionary(**{"fc.weight": called("torch._tensor._rebuild_from_type_v2",
            b"ctorch._utils\n_rebuild_parameter\n", b"ctorch.nn.parameter\nParameter\n",
            b"(" + W + b"I01\nNt", b"(dt"[:2])}),
        b"ccollections\nOrderedDict\n((lp0\n(Vfc.weight\n" + W + b"tatR",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.ckpt", "w.pkl", "w"])
def test_weights_as_tools_write_them(tmp_path, content, name):
    assert only_w(write_pth(tmp_path / name, content)) == []


@pytest.mark.parametrize("ending", [".pth", ".bin", ""])
def test_safetensors_are_told_by_their_content(tmp_path, ending):
    path = tmp_path / f"w{ending}"
    torch_files.write(path, {"module.fc.weight": EXPECTED})
    assert only_w(path) == []


def test_the_moving_average_is_taken_and_said(tmp_path):
    def state(pickled: bytes) -> tuple[dict, list[str]]:
        return read(write_pth(tmp_path / "w.pth", pickled))

    average = dictionary(**{"module.fc.weight": OTHER})
    for content in (
        dictionary(state_dict=STATE, state_dict_ema=average),
        dictionary(model=STATE, model_ema=dictionary(state_dict=average, decay=b"F0.9\n")),
        dictionary(model=STATE, ema=dictionary(shadow=average)),
        dictionary(state_dict=dictionary(**{"model.fc.weight": W, "ema_model.fc.weight": OTHER})),
    ):
        tensors, (note,) = state(content)
        np.testing.assert_array_equal(tensors["fc.weight"], EXPECTED.T)
        assert list(tensors) == ["fc.weight"]
        assert "w.pth: the moving average of the weights (" in note
        assert "is taken, not " in note
    tensors, (note,) = state(dictionary(state_dict_ema=average, epoch=INT))
    np.testing.assert_array_equal(tensors["fc.weight"], EXPECTED.T)
    assert "it is all that the file has" in note


def test_an_average_of_parameters_is_completed_with_the_running_statistics(tmp_path):
    plain = dictionary(**{"fc.weight": W, "bn.running_mean": tensor(storage(), (2,), (1,))})
    content = dictionary(model=plain, ema=dictionary(**{"fc.weight": OTHER}))
    state, (note,) = read(write_pth(tmp_path / "w.pth", content))
    np.testing.assert_array_equal(state["fc.weight"], EXPECTED.T)
    assert state["bn.running_mean"].tolist() == [0, 1]
    assert "1 arrays that it lacks, such as bn.running_mean, are the plain ones" in note


def test_averages_without_names_are_no_state_dict(tmp_path):
    content = dictionary(model=STATE, ema=dictionary(shadow_params=b"(l" + OTHER + b"a"))
    assert only_w(write_pth(tmp_path / "w.pth", content)) == []


def test_the_format_before_1_6_is_read(tmp_path):
    w = tensor(legacy_storage())
    for content in (dictionary(**{"fc.weight": w}), dictionary(net=dictionary(**{"fc.weight": w}))):
        assert only_w(write_legacy(tmp_path / "w.pth", content)) == []
    view = legacy_storage(view=b"(V1\nI2\nI3\nt")  # numbers 2, 3 and 4
    state, _ = read(write_legacy(tmp_path / "w.pth", dictionary(w=tensor(view, (2,), (1,), 1))))
    assert state["w"].tolist() == [3, 4]
    half = np.arange(6, dtype=np.float16)
    content = dictionary(w=tensor(legacy_storage("HalfStorage")))
    state, _ = read(write_legacy(tmp_path / "w.pth", content, half))
    np.testing.assert_array_equal(state["w"], EXPECTED.astype(np.float16), strict=True)


@pytest.mark.parametrize("how", ["cut", "count", "keys", "magic", "view", "version"])
def test_damage_in_the_format_before_1_6(tmp_path, how):
    view = b"(V1\nI5\nI3\nt" if how == "view" else b"N"
    content = dictionary(w=tensor(legacy_storage(view=view)))
    changes = {"count": {"count": 7}, "keys": {"keys": ("1",)}}.get(how, {})
    path = write_legacy(tmp_path / "w.pth", content, **changes)
    whole = path.read_bytes()
    if how == "cut":
        path.write_bytes(whole[:-1])
    if how == "magic":
        path.write_bytes(pickle.dumps(7, 2))
    if how == "version":
        path.write_bytes(whole.replace(b"M\xe9\x03", b"M\xe9\x04"))
    with pytest.raises(UserError, match=r"cannot be read|holds a int"):
        torch_files.read(path)


def test_numbers_without_a_class_of_storages(tmp_path):
    untyped = storage("UntypedStorage", count=24)
    end = b"I00\nccollections\nOrderedDict\n)R"
    shape = (b"I0\n", b"(I2\nI3\nt", b"(I3\nI1\nt")
    w = called("torch._utils._rebuild_tensor_v3", untyped, *shape, end, b"ctorch\nfloat32\n")
    assert only_w(write_pth(tmp_path / "w.pth", dictionary(**{"fc.weight": w}))) == []


# --- refused, and never run ---


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (called("torchvision.models.resnet.ResNet") + b"(db", "refers to torchvision.*ResNet, and"),
        (dictionary(model=called("models.Mine")), "refers to models.Mine, and only tensors"),
        (dictionary(ema=called("models.Mine"), epoch=INT), "refers to models.Mine, and only"),
        (dictionary(w=called("torch._utils._rebuild_sparse_tensor"), v=W), "_rebuild_sparse"),
        (dictionary(w=tensor(storage("ComplexFloatStorage"))), "ComplexFloatStorage"),
        (dictionary(model=STATE, x=called("os.system", b"Vtrue\n")), "refers to os.system"),
        (dictionary(model=STATE, x=called("builtins.exec", b"V1\n")), "refers to builtins.exec"),
        (dictionary(model=STATE, x=called("subprocess.run")), "refers to subprocess.run"),
        (b"(l" + W + b"a", "holds a list without tensors"),
        (W, "holds a Tensor without tensors"),
        (dictionary(a=STATE, b=STATE), "a, b are not tensors"),
        (dictionary(w=b"Vtext\n"), "w are not tensors"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path, content, says):
    with pytest.raises(UserError, match=says) as e:
        torch_files.read(write_pth(tmp_path / "w.pth", content))
    assert "\n" not in str(e.value)


class Raiser:
    """Would be built by its own function."""

    def __reduce__(self):
        return pathlib.Path.write_text, (Path("/nowhere/ran"), "x")


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_beside_the_weights_runs(tmp_path, protocol):
    victim = tmp_path / "victim"
    beside = {"a": Attack(victim), "b": argparse.Namespace(x=1), "c": {1: [Attack(victim)]}}
    beside |= {"d": {("a", 1): 2}, "e": {3, 4}, "f": frozenset([1]), "g": bytearray(b"x")}
    beside |= {"h": 2**80, "i": Path("x"), "j": np.float64(3), "k": np.arange(3), "l": Raiser()}
    pickled = pickle.dumps({"beside": beside}, protocol)
    content = torch_pickle.parse(io.BytesIO(pickled)).content["beside"]
    assert not victim.exists()
    assert content["d"] == {("a", 1): 2}
    assert content["h"] == 2**80
    for key in ("a", "b", "e", "f", "i", "j", "k", "l"):
        assert isinstance(content[key], torch_pickle.Placeholder), key


def nested(depth: int, make=b"\x85") -> bytes:
    return b")" + make * depth


@pytest.mark.parametrize(
    "pickled",
    [
        b"(d" + nested(1_000_000) + b"I1\ns.",  # as a key: hashing it overflowed the stack
        nested(1_000_000) + b".",
        b"]" + b"(lp0\n0" * 3 + b"(l" * 20_000 + b"a" * 19_999 + b".",
        b"(d" + b"Vk\n(d" * 20_000 + b"s" * 20_000 + b".",
        b"(d" + b"(I1\nI2\nI3\nI4\nI5\nI6\nI7\nI8\nI9\ntI1\ns.",
        b"(d(I1\n(I2\nttI1\ns.",
        b"(d]I1\ns.",
        b"]I1\n" * 10 + b"a" * 10 + b".",
        b"0.",
        b"t.",
        b"(.",
        b"h\5.",
        b"I1\nI2\nu.",
        b"(I1\nd.",
        b"\x8d" + struct.pack("<Q", 2**62) + b"x.",  # text of 2^62 bytes
        b"T" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x8b" + struct.pack("<i", -5) + b".",
        b"L" + b"9" * 5000 + b"L\n.",
        b"I1\nI2\nR.",
        b"I1\n)\x81.",
        b"\x82\5.",
        b"Vx\nP1\n.",
        b"(i\n.",
        b"(o.",
        b"I1\n",
        b"",
    ],
    ids=range(26),
)
def test_pickles_that_would_hurt_a_reader(pickled, tmp_path):
    started = time.monotonic()
    with contextlib.suppress(ForeignFileError):  # some of these are sound pickles of no weights
        torch_pickle.parse(io.BytesIO(pickled))
    path = write_pth(tmp_path / "w.pth", pickled[:-1])
    with pytest.raises(UserError) as e:
        torch_files.read(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 700
    assert time.monotonic() - started < 10


def test_steps_are_counted(monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_STEPS", 1000)
    with pytest.raises(ForeignFileError, match="more than 1000 steps"):
        torch_pickle.parse(io.BytesIO(b"(l" + b"I1\na" * 1000 + b"."))


def test_dictionaries_that_hold_themselves(tmp_path):
    names = [f"x{i}" for i in range(1000)] + ["model", "state_dict", "ema", "net", "module"]
    itself = b"(dp0\n" + b"".join(f"V{name}\ng0\ns".encode() for name in names)
    started = time.monotonic()
    with pytest.raises(UserError, match="are not tensors"):
        torch_files.read(write_pth(tmp_path / "w.pth", itself))
    itself += b"Vresnet\n" + STATE + b"s"
    assert only_w(write_pth(tmp_path / "w.pth", itself)) == []
    assert time.monotonic() - started < 5


def test_one_dictionary_under_two_names(tmp_path):
    both = b"(dVstate_dict\n" + STATE + b"p9\nsVstate_dict_ema\ng9\ns"
    (note,) = only_w(write_pth(tmp_path / "w.pth", both))
    assert "(state_dict_ema) is taken, not state_dict beside it" in note


def test_shared_numbers_are_bounded(tmp_path):
    many = {f"w{i}": W for i in range(6)}
    with pytest.raises(UserError, match="by sharing the same numbers"):
        torch_files.read(write_pth(tmp_path / "w.pth", dictionary(**many)))
    tied = {f"w{i}": W for i in range(2)}
    assert len(torch_files.read(write_pth(tmp_path / "w.pth", dictionary(**tied)))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_that_are_not_finite_are_named(tmp_path, value, dtype):
    numbers = np.array([1, value, 3], dtype)
    torch_files.write(tmp_path / "w.safetensors", {"a": np.ones(2, dtype), "fc.bias": numbers})
    kind = {"float16": "Half", "float32": "Float", "float64": "Double"}[np.dtype(dtype).name]
    pickled = dictionary(**{"fc.bias": tensor(storage(f"{kind}Storage", count=3), (3,), (1,))})
    write_pth(tmp_path / "w.pth", pickled, numbers)
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(UserError, match=rf"{name} has numbers in fc\.bias that are not finite"):
            torch_files.read(tmp_path / name)


# --- archives ---


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("any/data/0", bytes(300 * 2**20), compresslevel=1)


def pickle_bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("any/data.pkl", b"(l" + b"N" * (300 * 2**20), compresslevel=1)


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("any/data.pkl", b"N.")


def two_archives(archive: zipfile.ZipFile) -> None:
    archive.writestr("other/data.pkl", b"N.")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(bomb, "claims 314572800 bytes"), (twice, "there twice"), (two_archives, "several data.pkl")],
)
def test_archives_that_lie(tmp_path, spoil: Callable, says: str):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        w = tensor(storage(count=300 * 2**18))
        archive.writestr("any/data.pkl", dictionary(w=w) + b".")
        spoil(archive)
    with pytest.raises(UserError, match=says):
        torch_files.read(path)


def test_a_pickle_may_not_be_a_bomb(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        pickle_bomb(archive)
    with pytest.raises(UserError, match="bytes"):
        torch_files.read(path)


def change_directory(content: bytes, offset: int, value: bytes) -> bytes:
    """Overwrites a field of the first member in the list at the end of an archive."""
    place = content.index(b"PK\1\2") + offset
    return content[:place] + value + content[place + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, b"\1\0"),  # encrypted
        (10, b"\x63\0"),  # an unknown compression
        (24, struct.pack("<L", 2**31)),  # an impossible size
        (20, struct.pack("<L", 2**31)),
        (42, struct.pack("<L", 2**31)),  # a place beyond the end
        (42, struct.pack("<L", 5)),
        (28, b"\xff\xff"),  # a name without end
    ],
)
def test_lists_of_members_that_lie(tmp_path, offset, value):
    path = write_pth(tmp_path / "w.pth", dictionary(w=W))
    path.write_bytes(change_directory(path.read_bytes(), offset, value))
    with pytest.raises(UserError) as e:
        torch_files.read(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**60) + b"{",
        struct.pack("<Q", 10**9) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 5000) + b"{" * 5000,
        b"",
        struct.pack("<Q", 70) + json.dumps(
            {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode().ljust(70),
        struct.pack("<Q", 70) + json.dumps(
            {"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(70),
    ],
)  # fmt: skip
def test_safetensors_with_a_forged_header(tmp_path, header):
    path = tmp_path / "w.safetensors"
    path.write_bytes(header + b"0000")
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read"):
        torch_files.read(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    content = dictionary(model=dictionary(**{"a.weight": W, "b": OTHER}), epoch=INT)
    legacy = dictionary(**{"a.weight": tensor(legacy_storage())})
    paths = [
        write_pth(folder / "zip", content),
        write_legacy(folder / "legacy", legacy),
        folder / "safetensors",
    ]
    paths[2].write_bytes(safetensors.numpy.save({"a": EXPECTED}))
    return [path.read_bytes() for path in paths]


@settings(max_examples=150, deadline=None)
@given(which=st.integers(0, 2), cut=st.floats(0.5, 1), flips=st.lists(
    st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4))  # fmt: skip
def test_damaged_files_end_in_a_sentence(sound, tmp_path_factory, which, cut, flips):
    content = bytearray(sound[which])
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / "w.pth"
    path.write_bytes(content[: int(cut * len(content))])
    with contextlib.suppress(UserError):  # anything else fails the test
        state = torch_files.read(path)
        assert all(isinstance(array, np.ndarray) for array in state.values())
