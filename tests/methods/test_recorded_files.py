"""Every file that was recorded of another method is checked by one test of this folder."""

import conftest
import method_files
import pytest


@pytest.mark.parametrize("kind", method_files.KINDS)
def test_every_kind_is_beside_the_tests(kind, monkeypatch):
    monkeypatch.delenv("DELT_GOLDEN_DIR", raising=False)
    assert method_files.files(kind)


def test_a_folder_that_lacks_a_named_file_has_that_of_the_tests(tmp_path, monkeypatch):
    checkpoint = "checkpoints/fashion_mnist_conv3.pth"
    ours = conftest.golden_file(checkpoint)
    monkeypatch.setenv("DELT_GOLDEN_DIR", str(tmp_path))
    assert method_files.folder() == tmp_path / "methods"
    assert conftest.golden_file(checkpoint).samefile(ours)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / checkpoint).touch()
    assert conftest.golden_file(checkpoint) == tmp_path / checkpoint


def test_every_file_is_of_one_kind():
    read = [path for kind in method_files.KINDS for path in method_files.files(kind)]
    assert len(read) == len(set(read))
    every = {path.with_suffix(".json") for path in method_files.folder().glob("*/*.*")}
    assert set(read) == every
