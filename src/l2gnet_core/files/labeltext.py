"""Label names and colours as the small JSON text that travels inside a mask."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from l2gnet_core.errors import InputError

_KEY = "l2gnet"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LabelText:
    """What a mask file says besides voxels and geometry.

    names: id → name. colors: id → "#rrggbb".
    is_mask: does the file state that it is a mask?
    extra: what the format cannot state about the grid (units, oriented), for our own reader.
    by_l2gnet: was it read in the form that l2gnet writes?
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colors: Mapping[int, str] = field(default_factory=dict)
    is_mask: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    by_l2gnet: bool = False

    @classmethod
    def of(
        cls, names: Mapping[int, str] | None = None, colors: Mapping[int, str] | None = None
    ) -> LabelText:
        """From a caller's values. Raises InputError for a colour that is not "#rrggbb"."""
        for color in (colors or {}).values():
            if not _COLOR.fullmatch(color):
                raise InputError(f'A colour is written "#rrggbb", not {color!r}.')
        return cls(
            {int(k): str(v) for k, v in (names or {}).items()},
            {int(k): str(v).lower() for k, v in (colors or {}).items()},
            is_mask=True,
        )

    def to_json(self) -> str:
        """One line of ASCII, which every other tool can store."""
        labels = []
        for label in sorted({*self.names, *self.colors}):
            entry: dict[str, Any] = {"id": label}
            if label in self.names:
                entry["name"] = self.names[label]
            if label in self.colors:
                entry["color"] = self.colors[label]
            labels.append(entry)
        return json.dumps({_KEY: 1, "labels": labels, **self.extra}, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> LabelText | None:
        """Inverse of to_json; None for any other text, because files hold comments of all kinds."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.pop(_KEY, None) is None:
            return None
        names, colors = {}, {}
        entries = content.pop("labels", None)
        for entry in entries if isinstance(entries, list) else []:
            label = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(label, int):
                continue
            if isinstance(entry.get("name"), str):
                names[label] = entry["name"]
            if isinstance(entry.get("color"), str) and _COLOR.fullmatch(entry["color"]):
                colors[label] = entry["color"]
        return cls(names, colors, is_mask=True, extra=content, by_l2gnet=True)
