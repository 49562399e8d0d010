"""Which slices of a mask a person has reviewed, and when a review does not hold any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from l2gnet_core.project.state import SliceKey


@dataclass(frozen=True)
class WithdrawnReviews:
    """Reviews that a step withdrew: the slices, the organs (ids) that each review did not cover,
    and the ids of all organs of the mask at that time."""

    places: frozenset[SliceKey] = frozenset()
    unreviewed_organs: frozenset[tuple[SliceKey, int]] = frozenset()
    organs: frozenset[int] = frozenset()


class Reviews:
    """The reviewed slices of a mask.

    Points in time are numbers of edits, as `Segmentation.edits` counts them. organs: ids of the
    mask's organs.
    """

    def __init__(
        self,
        organs: Iterable[int],
        slices: Iterable[SliceKey] = (),
        unreviewed_organs: Iterable[tuple[SliceKey, int]] = (),
    ) -> None:
        #: Slices that a person has looked at and accepted.
        self.slices = set(slices)
        #: Reviewed slices, each with the id of an organ that was added after the review: the review
        #: does not cover that organ.
        self.unreviewed_organs = set(unreviewed_organs)
        #: Slices whose review was withdrawn because they were changed, by "painting", "undo" or
        #: "redo".
        self.invalidated: dict[SliceKey, str] = {}
        self._organs = frozenset(organs)
        self._reviewed_at: dict[SliceKey, int] = {}
        # When a slice last got an answer that cannot be undone.
        self._answered_at: dict[SliceKey, int] = {}

    def review(self, place: SliceKey, accepted: bool, edits: int) -> None:
        """A person accepts a slice with all its organs, or takes that back."""
        (self.slices.add if accepted else self.slices.discard)(place)
        self._reviewed_at[place] = edits
        self.unreviewed_organs -= {one for one in self.unreviewed_organs if one[0] == place}

    def note_answer(self, place: SliceKey, edits: int) -> None:
        """A slice got an answer that cannot be undone."""
        self._answered_at[place] = edits

    def since(self, edits: int, places: Iterable[SliceKey]) -> set[SliceKey]:
        """The slices among `places` that were last reviewed at `edits` or later."""
        return {place for place in places if self._reviewed_at.get(place, -1) >= edits}

    def invalidate(self, places: Collection[SliceKey], how: str) -> WithdrawnReviews:
        """Withdraw the reviews of slices that are changed; how: as `invalidated` has it."""
        withdrawn = WithdrawnReviews(
            frozenset(self.slices.intersection(places)),
            frozenset(one for one in self.unreviewed_organs if one[0] in places),
            self._organs,
        )
        self.slices -= withdrawn.places
        self.unreviewed_organs -= withdrawn.unreviewed_organs
        self.invalidated.update(dict.fromkeys(withdrawn.places, how))
        return withdrawn

    def restore(self, withdrawn: WithdrawnReviews, made: int | None = None) -> None:
        """Slices are again as they were before their reviews were withdrawn.

        made: when the stroke was made that is undone; slices that were accepted or answered after
        it are left out.
        """
        places = set(withdrawn.places)
        if made is not None:
            later = (self._reviewed_at, self._answered_at)
            places = {at for at in places if all(when.get(at, -1) < made for when in later)}
        self.slices |= places
        self.unreviewed_organs |= {
            (at, organ)
            for at, organ in withdrawn.unreviewed_organs
            if at in places and organ in self._organs
        }
        new = self._organs - withdrawn.organs
        self.unreviewed_organs |= {(at, organ) for at in places for organ in new}
        for place in places:
            self.invalidated.pop(place, None)

    def relabel(self, organs: Iterable[int]) -> None:
        """The mask has these organs (ids) from now on; earlier reviews do not cover new ones."""
        before, self._organs = self._organs, frozenset(organs)
        self.unreviewed_organs = {
            (at, organ) for at, organ in self.unreviewed_organs if organ in self._organs
        }
        new = self._organs - before
        self.unreviewed_organs |= {(at, organ) for at in self.slices for organ in new}
