"""A walk through all settings with values that nobody means: a sentence or a plan, never more."""

import contextlib
import functools
import io
import math

import pytest
from costly import costly
from tiny_run import tiny

from delt_jax import data, main
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS

INTS = (
    0,
    -1,
    1,
    2,
    7,
    1000,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    2**64,
    10**12,
    10**400,
)
FLOATS = (
    0.0, -0.0, -1.0, 0.5, 1.0, 1e-300, 1e-45, 1e-38, 1e-7, 1e6, 1e30, 3e38, 1e308, -1e308,
    math.nan, math.inf, -math.inf,
)  # fmt: skip
TEXTS = (
    "", " ", "nonsense", "a" * 300, "a" * 10**5, "/" + "b" * 300 + "/c", "nul\0", "bell\a", "x\ny",
    "große Katze", "\N{DOG FACE}", "\u202egpj", "\udcff", "../..", "/", "/dev/null",
    "-", "rand-", "rand-m6-n2-mstd1.0", "rand-m" + "9" * 400, "rand-m9e9", "rand-n16", "1e308",
    "class_bn=1e308", "class_bn=1e-300", "class_bn=nan", "conv3:99999999", "conv3:" + "9" * 5000,
    "hf:", "hf:a/b", "~", "%s{0}$x",
)  # fmt: skip
VALUES = {bool: (), int: INTS, float: FLOATS, str: TEXTS}


def extremes(name):
    """Values of a setting's type; of a tuple also several at once."""
    described = SETTINGS[name]
    if described.kind is not tuple:
        return VALUES[described.kind]
    single = VALUES[described.element]
    return (*((value,) for value in single), (), tuple(single[1:3]), (single[3],) * 2)


@pytest.fixture(autouse=True)
def _digits_are_read_once(monkeypatch):
    monkeypatch.setattr(data, "open_source", functools.lru_cache(data.open_source))


def walks():
    """Each setting with a third of its values at a time; the next setting begins with the next."""
    for i, name in enumerate(SETTINGS):
        for part in range(min(3, len(extremes(name)))):
            is_costly = part != i % 3 and len(extremes(name)) >= 3
            yield costly(name, part, when=is_costly, id=f"{name}-{part}")


@pytest.mark.parametrize(("name", "part"), walks())
def test_a_dry_run_answers_whatever_a_setting_is(name, part, tmp_path):
    values, tried = extremes(name)[part::3], 0
    for value in values:
        config = tiny(**{"teacher.epochs": 1})
        with config.unlocked():
            config.update_from_flattened_dict({name: value})
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                main.run(config, str(tmp_path / "run"), dry_run=True)
        except UserError as e:
            answer = str(e)
            assert "\n" not in answer, repr(value)
            assert len(answer) < 6000, repr(value)
            answer.encode()
        else:
            answer = out.getvalue()
            assert answer.startswith("Plan for "), repr(value)
        assert answer
        tried += 1
    assert tried == len(values) > 0
    assert not (tmp_path / "run").exists()


def noise(ipc):
    """A run that needs no real images, however many it makes."""
    return tiny(**{"ipc": ipc, "select.start": "noise", "evaluate.images": ("recovered",)})


def test_a_large_set_of_noise_is_planned(tmp_path, capsys):
    main.run(noise(10**4), str(tmp_path / "run"), dry_run=True)
    assert "100000 images" in capsys.readouterr().out


@pytest.mark.parametrize("ipc", [10**6, 10**9])
def test_a_huge_set_of_noise_is_refused(ipc, tmp_path):
    with pytest.raises(UserError, match="ipc"):
        main.run(noise(ipc), str(tmp_path / "run"), dry_run=True)


def test_a_schedule_of_too_many_rounds_is_refused(tmp_path):
    config = tiny(**{"recover.iterations": 10**6, "recover.round_iterations": 1})
    with pytest.raises(UserError, match=r"30 images \(ipc 3\) in 1,000,000 rounds are more than"):
        main.run(config, str(tmp_path / "run"), dry_run=True)


@pytest.mark.parametrize("size", [513, 4096, 100000])
def test_images_are_not_blown_up(size, tmp_path):
    config = tiny(**{"data.image_size": size})
    with pytest.raises(UserError, match=r"data\.image_size .*(at most 4096|512 or less)"):
        main.run(config, str(tmp_path / "run"), dry_run=True)
