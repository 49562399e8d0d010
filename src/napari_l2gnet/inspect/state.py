"""What the Inspect widget looks at and what is chosen in it, without Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_l2gnet.inspect.parts import Part

if TYPE_CHECKING:
    from napari_l2gnet.inspect.inspection import Inspection
    from napari_l2gnet.inspect.layers import InspectLayers

#: Parts of a scan to choose, besides organs.
VOLUME, SLICE = "volume", "slice"


@dataclass(frozen=True)
class Look:
    """What is looked at: what a model saw of a frame, and the layers that draw it."""

    layers: InspectLayers
    inspection: Inspection

    @property
    def index(self) -> int:
        """The slice on screen, along the slicing axis."""
        return self.layers.mask.place[1]


@dataclass(eq=False)
class InspectState:
    """The chosen mask, what its model saw of the frame on screen, and the chosen part and codes.

    `Reading` writes the first three, the widget the others.
    """

    #: The layers of the chosen mask; None without a mask.
    layers: InspectLayers | None = None
    #: What the model saw of the frame on screen; None if there is nothing to see.
    inspection: Inspection | None = None
    #: Do the charts show the inspection?
    drawn: bool = False
    #: The part that the numbers are about: VOLUME, SLICE or an organ's column of the tables.
    of: str | int = VOLUME
    codes: list[int] = field(default_factory=list)
    #: (frame,z,y,x) of the click that chose the code; None if a chart was clicked.
    voxel: tuple[int, int, int, int] | None = None
    #: Codes to choose again once another frame, or more of it, is read.
    wanted: list[int] = field(default_factory=list)
    #: Is the widget out of sight?
    is_aside: bool = False

    @property
    def look(self) -> Look | None:
        """What can be looked at now; None if there is nothing to see."""
        if self.layers is None or self.inspection is None:
            return None
        return Look(self.layers, self.inspection)

    @property
    def part(self) -> Part:
        """The part that the numbers are about."""
        if self.of == SLICE and self.look is not None:
            return Part(index=self.look.index)
        return Part(column=self.of) if isinstance(self.of, int) else Part()

    @property
    def is_current(self) -> bool:
        """Is everything that the model saw prepared?"""
        return self.inspection is not None and self.inspection.is_current

    @property
    def is_gone(self) -> bool:
        """Has the chosen mask been removed from the viewer?"""
        return self.layers is not None and self.layers.mask.layer not in self.layers.viewer.layers

    def take(self, layers: InspectLayers | None) -> None:
        """Look at another mask, or at none."""
        self.codes = []
        self.forget()
        self.layers, self.wanted = layers, []

    def forget(self) -> None:
        """Forget what was read; the chosen codes are chosen again once it is read again."""
        self.wanted = self.codes or self.wanted
        self.inspection, self.drawn, self.codes, self.voxel = None, False, [], None
