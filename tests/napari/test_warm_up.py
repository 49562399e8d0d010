"""Early imports."""

from __future__ import annotations

import sys

import pytest

from napari_l2gnet.jobs import warm_up


def test_internals_of_other_packages_may_move(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("skimage.color.colorconv", "vispy.visuals.line.dash_atlas"):
        monkeypatch.setitem(sys.modules, name, None)
    warm_up.labels_layer()
