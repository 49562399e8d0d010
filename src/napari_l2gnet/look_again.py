"""What a mask's model saw, found anew where it is not kept, as after resuming work; without Qt."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from napari_l2gnet.layers import frame_of
from napari_l2gnet.learning import Task, model_of
from napari_l2gnet.session import Session

if TYPE_CHECKING:
    from l2gnet_core.inspect.trace import Trace


def look_again(session: Session, task: Task) -> Generator[str | Trace, None, None]:
    """Show the segmented slices of a frame to the version of the model that the mask shows; what it
    saw comes last, and nothing is written into the mask. The task's scan and slice say which frame.

    Meant for a thread of its own. Raises InputError for models that are nowhere.
    """
    yield "Loading the model"
    from l2gnet_core.device import choose_device
    from l2gnet_core.inspect.trace import empty_trace
    from l2gnet_core.predict import outward, predict_slices

    device, _ = choose_device(task.device)
    model = model_of(session, task.version, task.annotation, device)
    volume, segmentation = task.scans[0].volume, task.scans[0].segmentation
    frame, here = task.here
    segmented = {index for at, index in segmentation.finished if at == frame}
    order = [i for i in outward(here, segmentation.shown.shape[1 + segmentation.axis])
             if i in segmented]  # fmt: skip
    scan, done = frame_of(volume, frame), 0
    trace = empty_trace(model, volume, segmentation.axis, scan)
    for result in predict_slices(model, scan, volume, segmentation.axis, order, device, trace):
        done += result is not None
        yield f"Looking · slice {done} of {len(order)}"
    yield trace
