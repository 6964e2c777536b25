"""A named part of a run whose source has changed needs a new version, or a word that it does not.

`delt_jax/store/part_versions.json` records version and source of every part. After a change, either
raise the part's version, if it gives other results, or leave it, if the results stay the same; then
run `python tests/store/test_part_versions.py` and commit the new record with the change.
"""

import json
import shutil
from pathlib import Path

import pytest

from delt_jax.store import part_sources
from delt_jax.store.identity import versions


def parts() -> dict[str, int]:
    """Version of every named part."""
    from delt_jax import models, terms
    from delt_jax.augment import crop, dsa, frepo, mix, rand_augment, shuffle
    from delt_jax.data import whitening
    from delt_jax.evaluation import coresets, training_sets
    from delt_jax.labels import compact
    from delt_jax.learned import experts, methods, program
    from delt_jax.recipe import choices
    from delt_jax.recovery import initial_images, mosaics, step
    from delt_jax.teachers import statistics_matching
    from delt_jax.training import protocols, state, student_program

    found = {f"term.{name}": terms.find(name).version for name in terms.names()}
    found |= {f"start.{name}": initial_images.version(name) for name in choices("select.start")}
    found |= {f"protocol.{name}": protocols.version(name) for name in protocols.NAMES}
    found |= {f"model.{name}": models.version(name) for name in models.NAMES}
    found |= {f"coreset.{name}": coresets.VERSION for name in training_sets.CORESETS}
    found |= {f"learned.{name}": methods.version(name) for name in methods.names()}
    return found | {
        "learned.engine": program.VERSION,
        "learned.experts": experts.VERSION,
        "data.whitening": whitening.VERSION,
        "augment.crop": crop.VERSION,
        "augment.dsa": dsa.VERSION,
        "augment.frepo": frepo.VERSION,
        "augment.rand_augment": rand_augment.VERSION,
        "augment.shuffle": shuffle.VERSION,
        "augment.cutmix": mix.VERSION,
        "augment.mixup": mix.VERSION,
        "recovery.step": step.VERSION,
        "training.teacher": state.VERSION,
        "labels.compact": compact.VERSION,
        "start.rded_files": mosaics.FILES_VERSION,
        "statistics.conv_drop": statistics_matching.DROP_VERSION,
        "training.own_class": student_program.OWN_CLASS_VERSION,
        "training.ema": student_program.EMA_VERSION,
    }


def record() -> dict[str, list]:
    """Versions and digests of the sources as they are now."""
    return {name: [version, part_sources.digest(name)] for name, version in parts().items()}


def test_changed_parts_have_new_versions():
    recorded, now = part_sources.record(), record()
    assert now.keys() == recorded.keys(), "parts have come or gone: " + __doc__
    for name, (version, digest) in now.items():
        before = recorded[name]
        assert version >= before[0], f"{name} went back from version {before[0]} to {version}"
        assert (version, digest) == tuple(before), f"{name} has changed. {__doc__}"


def test_every_statement_that_computes_counts():
    assert part_sources.statements("augment/mix") != part_sources.statements("augment/shuffle")
    assert "VERSION" in part_sources.statements("augment/mix")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose files may be edited; its digests are not kept."""
    folder = tmp_path / "delt_jax"
    source = Path(part_sources.__file__).parents[1]
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(f"{part_sources.__name__}._PACKAGE", folder)
    forget()
    yield folder
    forget()


def forget():
    part_sources.digest.cache_clear()
    part_sources.statements.cache_clear()


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    forget()


def test_released_sources_add_nothing(package):
    assert not [name for name in versions(parts()) if name.startswith("source of")]


def test_layout_and_words_add_nothing(package):
    edit(package / "terms/class_bn.py", "import optax\n", "import optax\n\n# A word.\n")
    assert versions({"term.class_bn": 1}) == {}


@pytest.mark.parametrize(
    ("file", "name", "other"),
    [
        ("terms/barycentre.py", "term.barycentre", "term.class_bn"),
        ("teachers/statistics_matching.py", "term.global_statistics", "start.real"),
        ("recovery/step.py", "recovery.step", "training.teacher"),
        ("recovery/selection.py", "start.real", "start.noise"),
        ("training/student_step.py", "protocol.delt", "recovery.step"),
        ("models/convnet.py", "model.conv3", "model.vgg11"),
        ("models/dc_convnet.py", "model.dc_conv4", "model.conv4"),
        ("augment/tables.py", "augment.rand_augment", "augment.crop"),
        ("labels/compact.py", "labels.compact", "augment.crop"),
        ("evaluation/coresets.py", "coreset.kmeans", "start.real"),
    ],
)
def test_an_edited_source_is_part_of_what_is_made(package, file, name, other):
    with open(package / file, "a", encoding="utf-8") as f:
        f.write("\nMORE = 1\n")
    forget()
    added = versions({name: 1, other: 1})
    assert added.keys() == {f"source of {name}"}
    edit(package / file, "MORE = 1", "MORE = 2")
    assert versions({name: 1})[f"source of {name}"] != added[f"source of {name}"]


def test_parts_that_were_never_released_carry_their_source(package):
    (package / "terms/mine.py").write_text("from delt_jax.terms import helper\nTERM = helper.x\n")
    (package / "terms/helper.py").write_text("from . import deeper\nx = deeper.x\n")
    (package / "terms/deeper.py").write_text("x = 1\n")
    before = versions({"term.mine": 1})
    assert before.keys() == {"source of term.mine"}
    edit(package / "terms/deeper.py", "x = 1", "x = 2")
    assert versions({"term.mine": 1}) != before
    assert versions({"model.mine": 1}).keys() == {"source of model.mine"}


def test_a_part_without_source_has_its_version(package):
    (package / "terms/barycentre.py").unlink()
    forget()
    assert versions({"term.barycentre": 1}) == {}
    assert versions({"term.barycentre": 2}) == {"version of term.barycentre": 2}


def test_a_source_that_is_being_edited_counts_too(package):
    edit(package / "terms/class_bn.py", "import optax", "import optax (")
    assert versions({"term.class_bn": 1}).keys() == {"source of term.class_bn"}


if __name__ == "__main__":
    text = json.dumps(record(), indent=1) + "\n"
    part_sources.RECORD.write_text(text, encoding="utf-8")
