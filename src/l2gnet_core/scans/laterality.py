"""Structures whose names say that they are mirror images, or differ by a direction."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

from l2gnet_core.scans.labels import Label, LabelSet

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_OTHER = {"left": "right", "right": "left"}
#: Words of structures whose left and right differ in function, not only in place: the mirror image
#: of the heart's left ventricle is no right ventricle. The brain's lateral ventricles are a pair.
_NOT_BY_PLACE = ("ventric", "atri", "heart", "cardi", "myo", "coronar", "liver", "hepat")

_OPPOSITES = (
    {"left", "right"},
    {"anterior", "posterior"},
    {"superior", "inferior"},
    {"upper", "lower"},
)


def mirror_pairs(labels: LabelSet) -> tuple[tuple[int, int], ...]:
    """The pairs of classes that change places in a mirror image, as (left, right).

    Classes count from 1 in the order of `labels`, as in training; those without a side keep their
    place. Empty if images of these structures should not be mirrored: no name has a side, or a
    structure with a side has no partner or no clear one.
    """
    paired: dict[tuple[tuple[str, ...], str], int] = {}
    plain: list[str] = []
    for number, label in enumerate(labels, 1):
        words = _words(label)
        sides = [_SIDES[word] for word in words if word in _SIDES]
        if not sides:
            plain.append(label.name.casefold())
            continue
        what = (tuple(sorted(word for word in words if word not in _SIDES)), sides[0])
        if len(sides) > 1 or not _by_place(words) or what in paired:
            return ()
        paired[what] = number
    # "LV" and "RV" or "Eye_AL" and "Eye_AR" may be sides, but these names do not say it.
    if any(_differ_in_side(one, other) for one, other in combinations(plain, 2)):
        return ()
    if any((what, _OTHER[side]) not in paired for what, side in paired):
        return ()
    return tuple(
        (number, paired[what, "right"]) for (what, side), number in paired.items() if side == "left"
    )


def apart_by_direction(labels: LabelSet) -> list[tuple[str, str]]:
    """Pairs of names that differ by one direction alone, such as "anterior" and "posterior"."""
    found = []
    named = [(label.name, [_SIDES.get(word, word) for word in _words(label)]) for label in labels]
    for (one, mine), (other, its) in combinations(named, 2):
        only_mine, only_its = Counter(mine) - Counter(its), Counter(its) - Counter(mine)
        differ = {*only_mine, *only_its}
        if len(mine) != len(its) or only_mine.total() != 1 or differ not in _OPPOSITES:
            continue
        if "left" not in differ or _by_place(mine):
            found.append((one, other))
    return found


def _by_place(words: list[str]) -> bool:
    """Do left and right in a name say where the structure lies?"""
    return "lateral" in words or not any(word.startswith(_NOT_BY_PLACE) for word in words)


def _words(label: Label) -> list[str]:
    """Lower-case words of a name written with spaces, underscores, hyphens or in camel case."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label.name)
    return [word.casefold() for word in re.findall(r"[^\W_]+", name)]


def _differ_in_side(one: str, other: str) -> bool:
    """Is an l in one an r in the other, and nothing else different?"""
    different = [{a, b} for a, b in zip(one, other, strict=False) if a != b]
    return len(one) == len(other) and different == [{"l", "r"}]
