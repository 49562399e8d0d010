"""Finding again what a mask's model saw where that is not kept, as in resumed work; without Qt."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from l2gnet_core.errors import InputError
from napari_l2gnet.annotating.learning import Task, model_of
from napari_l2gnet.jobs.segment_places import ScanFrames, segment_places
from napari_l2gnet.jobs.session import Session

if TYPE_CHECKING:
    from l2gnet_core.segmenting.trace import Trace


def look_again(session: Session, task: Task) -> Generator[str | Trace, None, None]:
    """Show the slices of the frame on screen that have an answer to the task's model.

    Yields messages, then what the model saw. Writes nothing into the mask; meant for a thread of
    its own. Raises InputError if the model cannot be found, or has no codes any more.
    """
    yield "Loading the model"
    from l2gnet_core.network.device import choose_device
    from l2gnet_core.segmenting.predict import outward

    device, _ = choose_device()
    model = model_of(session, task.version, task.annotation, device)
    segmentation, (frame, here) = task.scans[0].segmentation, task.here
    predicted = {index for at, index in segmentation.predicted if at == frame}
    count = segmentation.shown.shape[1 + segmentation.axis]
    order = [index for index in outward(here, count) if index in predicted]
    scan = ScanFrames(task.scans[0].volume, segmentation.axis)
    trace: Trace | None = None
    for step in segment_places(model, scan, [(frame, order)], len(order), device):
        trace = step.trace or trace
        if trace is not None and step.place is not None and step.slice_trace is not None:
            trace.add(step.place[1], step.slice_trace)
        yield f"Running the model · slice {step.done} of {len(order)}"
    if trace is None:
        raise InputError(
            f"Expected a model with codes, but {model.card.name} has none; segment the scan again."
        )
    yield trace
