"""Files are put in place whole, also where other programs look at them, as on Windows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l2gnet_core.errors import OutputError
from l2gnet_core.files import atomic
from l2gnet_core.files.atomic import replace_bytes


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
