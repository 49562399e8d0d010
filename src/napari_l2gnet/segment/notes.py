"""What the Segment widget says under its buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from napari_l2gnet.annotating.take_over import no_scan
from napari_l2gnet.masks.duplicates import unsaved_copy
from napari_l2gnet.masks.layer import IMAGE_KEY
from napari_l2gnet.scans.layers import layer_message
from napari_l2gnet.segment.form import SegmentForm
from napari_l2gnet.segment.run import Run
from napari_l2gnet.widgets.docked import always


class SegmentNotes:
    """Says what happened, and below it what to beware of in the scan and in its mask."""

    def __init__(self, form: SegmentForm) -> None:
        self._form = form
        #: What about the scan does not suit the model.
        self.warnings: list[str] = []
        #: What about the mask is unusual.
        self._doubts: list[str] = []

    def clear(self) -> None:
        """Forget all warnings."""
        self.warnings, self._doubts = [], []

    def say(self, text: str, bad: bool = False, holds: Callable[[], bool] = always) -> None:
        """Show a sentence, while it holds, then what to beware of."""
        form = self._form
        trouble = [one for one in (unsaved_copy(form.viewer), no_scan(form.image.layer)) if one]
        form.show_message(text, bad, [*trouble, *self.warnings, *self._doubts], holds)

    def take_warnings(self, run: Run, warnings: Sequence[str]) -> None:
        """Show the warnings of a run's step that are new."""
        image = run.mask.layer.metadata[IMAGE_KEY]
        said = [layer_message(one, image) for one in warnings]
        if new := [one for one in said if one not in run.warnings]:
            run.warnings += new
            self.warnings += self._named(run, new)
            self.say(run.about)

    def take_end(self, run: Run, text: str, bad: bool) -> None:
        """Show how a run ended, and what is unusual about its mask."""
        beware = self._named(run, [*run.warnings, *run.doubts])
        self._doubts = [line for line in beware if line not in self.warnings]
        ends = self._named(run, [text])[0] if text else run.about
        self.say(ends, bad, run.stands)

    def _named(self, run: Run, lines: list[str]) -> list[str]:
        """Lines about a run's mask; with the mask's name if its scan is not the chosen one now."""
        layer = run.mask.layer
        if layer.metadata[IMAGE_KEY] is self._form.image.layer:
            return lines
        return [f"{layer.name}: {line}" for line in lines]
