"""What a person does with the Correct & fine-tune widget, for the tests of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from l2gnet_core.models.checkpoint import Model
from l2gnet_core.project.events import Answered
from napari_l2gnet.annotating.annotation import Annotation, Proposal
from napari_l2gnet.annotating.preview import AFTER, Preview
from napari_l2gnet.annotating.task_events import Answer
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.correct.widget import CorrectWidget
from napari_l2gnet.masks.layer import MaskLayer


def bright(viewer: Any) -> np.ndarray:
    """The truth in these tests: bright is the right ventricle."""
    scan = viewer.layers[0].data
    return (scan > np.median(scan)).astype(np.uint8)


def correct_slice(viewer: Any, widget: CorrectWidget, index: int) -> None:
    """Paint a slice as it truly is, and accept it."""
    widget.review.go_to((0, index))
    rows, columns = np.indices(widget.current_mask.layer.data.shape[1:]).reshape(2, -1)
    where = (np.full_like(rows, index), rows, columns)
    widget.current_mask.layer.data_setitem(where, bright(viewer)[where])
    widget.review.accept_slice()


def ends(qtbot: Any, widget: CorrectWidget, begin: Any) -> str:
    with qtbot.waitSignal(widget.run_ended, timeout=60_000) as blocker:
        begin()
    return str(blocker.args[0])


def fine_tune(qtbot: Any, widget: CorrectWidget, seconds: int = 2) -> str:
    widget.seconds.setValue(seconds)
    return ends(qtbot, widget, widget.start.click)


def propose(mask: MaskLayer) -> Annotation:
    """A finished proposal of right ventricle everywhere, looked at."""
    annotation = annotation_of(mask)
    raw = np.ones_like(mask.segmentation.raw)
    answered = Answered("accepted", Model(None, mask.segmentation.card), mask.segmentation.places)
    answer = Answer(raw, raw.copy(), answered, {})
    annotation.propose(Proposal("scan", raw, set(mask.segmentation.places), answer=answer))
    annotation.preview = Preview(mask, annotation)
    annotation.preview.show(AFTER)
    return annotation
