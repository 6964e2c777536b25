"""Runs without real images, from a teacher's weights and names of classes alone."""

import functools
import shutil

import chex
import numpy as np
import pytest
from PIL import Image
from tiny_run import read_json, stop_after, tiny

import delt_jax
from delt_jax import config as config_lib
from delt_jax import export, main
from delt_jax.core.stopping import Stopped
from delt_jax.data import open_source
from delt_jax.data.classes import in_words, wanted_classes
from delt_jax.errors import UserError
from delt_jax.evaluation import fresh_views
from delt_jax.formats import distilled
from delt_jax.recipe import DataRecipe
from delt_jax.stages import pipeline
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib

CLASSES = ("3", "1", "7")


@pytest.fixture(scope="module")
def recipe(tiny_ranked):
    """Settings of a run with three of the digits, from the weights of a teacher of all ten."""
    made = read_json(tiny_ranked / "teacher/manifest.json")["normalisation"]
    settings = {
        "data.name": "classes",
        "data.class_names": tuple("0123456789"),
        "data.classes": ",".join(CLASSES),
        "data.image_size": 8,
        "data.mean": tuple(made["mean"]),
        "data.std": tuple(made["std"]),
        "teacher.weights": str(tiny_ranked / "teacher/weights.safetensors"),
        "select.start": "noise",
        "evaluate.regimes": ("online",),
        "evaluate.seeds": 1,
    }
    return lambda **changed: tiny(**settings | changed)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A finished run, to look at and to copy, never to change."""
    folder = tmp_path_factory.mktemp("no_data") / "run"
    main.run(recipe(), str(folder))
    return folder


@functools.cache
def digits():
    return open_source(config_lib.from_config(tiny()).data)


def pictures(folder, counts, split="test", named=str):
    """A folder of real digits for each class, so many of each."""
    examples = getattr(digits(), split)
    for name, count in zip(CLASSES, counts, strict=True):
        (folder / named(name)).mkdir(parents=True)
        for i in np.flatnonzero(examples.labels == int(name))[:count]:
            Image.fromarray(examples.images([i])[0, ..., 0]).save(folder / named(name) / f"{i}.png")
    return str(folder)


def test_a_run_without_images_leaves_out_what_needs_them(finished, recipe, tiny_ranked, capsys):
    squeezed = read_json(finished / "teacher/manifest.json")
    assert squeezed["accuracy"] is None
    assert squeezed["class_names"] == list(CLASSES)
    whole, ours = (teacher_lib.load(folder / "teacher") for folder in (tiny_ranked, finished))
    chex.assert_trees_all_equal(
        ours.variables["params"]["classifier"]["kernel"],
        whole.variables["params"]["classifier"]["kernel"][:, [3, 1, 7]],
    )
    assert not (finished / "ranking.csv").exists()
    assert not (finished / "evaluation").exists()
    summary = read_json(finished / "summary.json")
    assert summary["scores"] == []
    assert summary["within_class_similarity"].keys() == {"start", "recovered"}
    page = (finished / "report/report.html").read_text()
    assert "conv3, whose accuracy was not measured" in page
    assert len(delt_jax.load(finished).images) == 9
    main.run(recipe(), str(finished), verify=True)
    out = capsys.readouterr().out
    assert out.count("done, nothing changed") == 4
    assert "rank: left out, as there are no training images" in out
    assert "evaluate: left out, as there are no test images to score students on" in out


def test_probabilities_are_those_of_crops(finished):
    synthetic, teacher = (
        distilled.read(finished / "distilled"),
        teacher_lib.load(finished / "teacher"),
    )
    (seen,) = fresh_views.look([teacher], synthetic.images, synthetic.labels)
    (told,) = read_json(finished / "summary.json")["fresh_views"]["networks"]
    assert told["probability"] == pytest.approx(seen.probability.mean())
    lines = (finished / "report/fresh_views.csv").read_text().splitlines()
    assert lines[0] == "class,rank,probability of conv3,right of conv3"
    assert [line.split(",")[:2] for line in lines[1:4]] == [["0", "0"], ["0", "1"], ["0", "2"]]
    # A flat image is the same in every crop, and any part of a set gets the crops of the whole.
    flat = np.full_like(synthetic.images, 99)
    (same,) = fresh_views.look([teacher], flat, synthetic.labels)
    alone = teacher_lib.logits_of(teacher, flat[:1])[0].astype(float)
    expected = np.exp(alone - alone.max()) / np.exp(alone - alone.max()).sum()
    chex.assert_trees_all_close(same.probability, expected[synthetic.labels], rtol=1e-4)
    (part,) = fresh_views.look([teacher], synthetic.images[:4], synthetic.labels[:4])
    chex.assert_trees_all_close(part.probability, seen.probability[:4], rtol=1e-4)


def test_a_killed_recovery_goes_on_with_the_same_bits(finished, recipe, tmp_path, monkeypatch):
    shutil.copytree(finished / "teacher", tmp_path / "run/teacher")
    shutil.copy(finished / "config.json", tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            main.run(recipe(), str(tmp_path / "run"), ["recover"])
    assert list((tmp_path / "run/distilled.partial").iterdir())
    main.run(recipe(), str(tmp_path / "run"), ["recover"])
    made = (distilled.read(folder / "distilled").images for folder in (finished, tmp_path / "run"))
    chex.assert_trees_all_equal(*made)


def test_test_images_give_accuracy_and_scores(finished, recipe, tmp_path, capsys):
    folder = pictures(tmp_path / "test", (9, 8, 7), named=lambda name: f"0{name}")
    config = recipe(**{"data.path": folder, "report.second_teacher": str(finished / "teacher")})
    main.run(config, str(tmp_path / "run"))
    out = capsys.readouterr().out
    assert "evaluate.images recovered: there are no training images for random, selected" in out
    summary = read_json(tmp_path / "run/summary.json")
    assert [row["images"] for row in summary["scores"]] == ["recovered"]
    source = open_source(config_lib.from_config(config).data)
    assert np.bincount(source.test.labels).tolist() == [9, 8, 7]
    ours = teacher_lib.load(tmp_path / "run/teacher")
    logits = teacher_lib.logits_of(ours, source.test.images(np.arange(24)))
    assert ours.accuracy == (logits.argmax(1) == source.test.labels).mean()
    first, second = summary["fresh_views"]["networks"]
    assert first["network"] == "conv3 (teacher)"
    assert first["probability"] == second["probability"]  # these are the same weights


def test_an_imported_set_is_labelled_and_shown(finished, recipe, tmp_path):
    export.run(export.ExportOptions(finished, "distilled", tmp_path / "run/distilled"))
    main.run(recipe(), str(tmp_path / "run"), ["squeeze", "relabel", "report"])
    summary = read_json(tmp_path / "run/summary.json")
    before = read_json(finished / "summary.json")
    assert summary["fresh_views"] == before["fresh_views"]
    assert summary["within_class_similarity"].keys() == {"recovered"}


def test_own_pictures_begin_the_images(recipe, tmp_path, capsys):
    folder = pictures(tmp_path / "own", (2, 3, 1), "train")
    start = {"select.start": "pictures", "select.pictures": folder}
    run = functools.partial(main.run, recipe(**start), str(tmp_path / "run"))
    run(["squeeze", "recover"])
    record = read_json(tmp_path / "run/distilled/manifest.json")["start"]
    assert record["chosen"] == [[0, 1, 0], [2, 3, 4], [5, 5, 5]]
    run(["report"])
    from delt_jax.recovery import initial_images

    source = open_source(config_lib.from_config(recipe()).data)
    teacher = teacher_lib.load(tmp_path / "run/teacher")
    starts = initial_images.recorded(record, tmp_path, source, teacher.normalisation)
    pixels = starts.pixels(range(9))
    own = np.stack(
        [np.array(Image.open(f"{folder}/{name}"))[..., None] for name in record["pictures"]]
    )
    firsts = [0, 1, 3, 4, 5, 6]
    chex.assert_trees_all_equal(pixels[firsts], own)
    assert len(np.unique(pixels[[6, 7, 8]], axis=0)) == 3  # crops, which differ
    chex.assert_trees_all_equal(starts.pixels([8])[0], pixels[8])
    # Another picture under the same name is noticed.
    Image.fromarray(255 - own[0, ..., 0]).save(f"{folder}/{record['pictures'][0]}", optimize=True)
    capsys.readouterr()
    run(["recover"], dry_run=True)
    assert "recover   would run: redone because select.pictures was" in capsys.readouterr().out


def test_a_teachers_folder_brings_the_accuracy_it_has(recipe, tiny_ranked, tmp_path, capsys):
    folder = {"teacher.weights": str(tiny_ranked / "teacher"), "data.classes": ""}
    constants = {"data.mean": (), "data.std": (), "data.channels": 1}
    main.run(recipe(**folder, **constants), str(tmp_path / "run"), ["squeeze"])
    before = read_json(tiny_ranked / "teacher/manifest.json")["accuracy"]
    assert read_json(tmp_path / "run/teacher/manifest.json")["accuracy"] == before
    assert f"no test images; {before:.2%} is recorded with it" in capsys.readouterr().out


def test_a_teacher_of_unknown_accuracy_is_measured_where_there_are_images(
    finished, recipe, tmp_path, capsys
):
    test = {"data.path": pictures(tmp_path / "test", (9, 9, 9))}
    taken = recipe(**{"teacher.weights": str(finished / "teacher")}, **test)
    main.run(taken, str(tmp_path / "run"), ["squeeze"])
    assert read_json(tmp_path / "run/teacher/manifest.json")["accuracy"] > 0.5
    assert "(none recorded)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"teacher.weights": ""}, "has no images to train a teacher on; give one with"),
        ({"teacher.others": ("conv3:16",)}, "cannot have conv3_16: .* no images to train"),
        ({"select.start": "real"}, "takes training images, which data.name 'classes' does not"),
        ({"select.start": "rded"}, "takes training images"),
        ({"select.start": "pictures"}, "select.pictures '' is not a folder"),
        ({"select.pictures": "x"}, "select.pictures is set, but select.start is 'noise'"),
        ({"recover.terms": ("barycentre=1",)}, "'barycentre', which reads training images"),
        ({"data.validation_share": 0.1}, "holds out training images"),
        ({"data.classes": "3,1,11"}, "lists '11', which is no class of data.class_names"),
        ({"data.classes": "3,1,3"}, "the class '3' more than once"),
        ({"data.image_size": 0}, "no images that tell their size"),
        ({"data.path": "/no/such"}, "data.path '/no/such' is not a folder"),
        ({"report.second_teacher": "/no/such"}, "report.second_teacher names /no/such"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(recipe, tmp_path, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        main.run(recipe(**changed), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_pictures_of_every_class_are_needed_in_one_folder_each(recipe, tmp_path):
    def opened():
        return open_source(config_lib.from_config(recipe(**{"data.path": str(tmp_path)})).data)

    pictures(tmp_path, (1, 1, 1))
    (tmp_path / "5").mkdir()
    assert "other classes, which are not used: 5" in opened().notes[0]
    (tmp_path / "03").mkdir()
    with pytest.raises(UserError, match="several folders of one class, 03, 3"):
        opened()
    shutil.rmtree(tmp_path / "03")
    shutil.rmtree(tmp_path / "7")
    with pytest.raises(UserError, match="has no folder for 7; every one of the 3 classes"):
        opened()


def test_a_dry_run_needs_nothing_and_writes_nothing(recipe, tmp_path, capsys):
    main.run(recipe(), str(tmp_path / "run"), dry_run=True)
    out = capsys.readouterr().out
    assert "0 training and 0 test images of 3 classes" in out
    assert "  rank      left out, as there are no training images" in out
    assert "\nrecover " in out
    assert "\nevaluate " not in out.partition("estimated hours")[0].partition("FLOPs")[2]
    assert not (tmp_path / "run").exists()


def test_a_comparison_needs_test_images(tmp_path, monkeypatch):
    from delt_jax.comparison import cells

    (tmp_path / "bare.py").write_text(
        "from delt_jax.config import default_config\n"
        "def get_config(variants=''):\n"
        "    config = default_config()\n"
        "    config.data.name = 'classes'\n"
        "    config.data.image_size, config.data.channels = 8, 1\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match="A comparison is one of scores, but there are no test"):
        cells.plan([str(tmp_path / "bare.py")], [1], tmp_path / "grid")


def test_noise_is_not_ranked_unless_ranked_images_are_scored(tiny_ranked):
    stage = next(stage for stage in pipeline.STAGES if stage.name == "rank")
    noise = tiny(**{"select.start": "noise", "evaluate.images": ("recovered", "random")})
    assert "takes no training images" in stage.skipped(config_lib.from_config(noise))
    both = config_lib.from_config(tiny(**{"select.start": "noise"}))
    assert pipeline.status(stage, both, digits(), WorkDir(tiny_ranked))[1].startswith("done")
    # Older versions named a ranking that they had not read.
    assert not changes({"ranking": "a", "ipc": 1}, {"ipc": 1})
    assert changes({"ranking": "a"}, {"ranking": "b"})


def opened(classes, **settings):
    recipe = DataRecipe(name="classes", classes=classes, image_size=8, channels=3, **settings)
    return open_source(recipe)


def test_classes_of_imagenet_by_wnid_word_and_label(tmp_path):
    imagenet = wanted_classes("imagenet")
    words = in_words(imagenet)
    assert len({word.casefold() for word in words}) == 1000
    assert [words[i] for i in (1, 130, 207, 849, 985)] == [
        *("goldfish", "flamingo", "golden retriever", "teapot", "daisy")
    ]
    mixed = opened("flamingo,n01443537, Golden_Retriever,849")
    assert mixed.class_names == tuple(imagenet[i] for i in (130, 1, 207, 849))
    assert mixed.all_classes == opened("").class_names == imagenet
    (tmp_path / "known.txt").write_text("teapot\nflamingo\n")
    assert opened(str(tmp_path / "known.txt")).class_names == (imagenet[849], imagenet[130])
    (tmp_path / "own.txt").write_text("teapot\nghost\n")
    own = opened(str(tmp_path / "own.txt"))
    assert own.class_names == own.all_classes == ("teapot", "ghost")
    with pytest.raises(UserError, match=r"'flamigo'.* did you mean 'flamingo'"):
        opened("flamigo,teapot")
    fingerprints = {each.fingerprint for each in (mixed, own, opened(""), opened("imagenette"))}
    assert len(fingerprints) == 4
