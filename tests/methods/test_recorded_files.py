"""Every file that was recorded of another method is checked by one test of this folder."""

import method_files


def test_every_file_is_of_one_kind():
    read = [path for kind in method_files.KINDS for path in method_files.files(kind)]
    assert len(read) == len(set(read))
    every = {path.with_suffix(".json") for path in method_files.folder().glob("*/*.*")}
    assert set(read) == every
