"""The demo says what it lacks, where Qt would abort the process."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from l2gnet_core.errors import InputError
from napari_l2gnet.demo import require_display

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Qt needs no display")


@pytest.mark.parametrize(
    ("display", "says"), [("", "there is none"), (":65000", "Qt cannot open :65000")]
)
def test_a_display_that_does_not_answer_is_refused(
    display: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(InputError, match=says):
        require_display()


def test_a_display_that_answers_will_do(qapp: Any) -> None:
    # qapp: the display that pytest-xvfb starts is there by then.
    require_display()
