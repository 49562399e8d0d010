"""Files are put in place whole, also where other programs look at them, as on Windows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l2gnet_core.errors import OutputError
from l2gnet_core.files import atomic
from l2gnet_core.files.atomic import replace_bytes, require_writable


@pytest.fixture
def held_open(monkeypatch):
    """Makes `os.replace` raise as on Windows while another program has the file open."""
    put = os.replace

    def begin(tries: int) -> list[Path]:
        refused: list[Path] = []

        def replace(source, target):
            if len(refused) < tries:
                refused.append(Path(target))
                raise PermissionError(13, "Access is denied", str(target))
            put(source, target)

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(atomic, "_WAITS", (0.0,) * 5)
        return refused

    return begin


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced(tmp_path, held_open):
    (tmp_path / "a.json").write_bytes(b"old")
    refused = held_open(2)
    replace_bytes(tmp_path / "a.json", b"new")
    assert len(refused) == 2
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_that_stays_open_is_left_as_it_was(tmp_path, held_open, one_sentence):
    (tmp_path / "a.json").write_bytes(b"old")
    held_open(1000)
    with pytest.raises(OutputError, match="cannot be written: Access is denied") as error:
        replace_bytes(tmp_path / "a.json", b"new")
    one_sentence(error.value)
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_output_on_a_drive_that_is_not_there_is_refused(tmp_path, monkeypatch, one_sentence):
    def missing(path):
        raise FileNotFoundError(2, "The system cannot find the path specified", str(path))

    # As Z:\ on Windows: the topmost folder is missing, and is its own parent.
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    monkeypatch.setattr(Path, "mkdir", missing)
    with pytest.raises(OutputError, match="choose another output") as error:
        require_writable(tmp_path / "masks")
    one_sentence(error.value)


def test_a_new_folder_may_be_where_no_files_may_be(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    # As in C:\ on Windows, for users without an administrator's rights.
    monkeypatch.setattr(Path, "open", refuse)
    require_writable(tmp_path / "masks" / "today")
    with pytest.raises(OutputError, match="Permission denied"):
        require_writable(tmp_path)
    assert not os.listdir(tmp_path)
