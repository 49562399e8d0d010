"""Adopting answers, accepting or discarding proposals, and telling of a fine-tuning in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from l2gnet_core.project.events import Answered, Discarded, FineTuned, Interpolated
from l2gnet_core.project.state import SliceKey
from l2gnet_core.scans.cleanup import CleanUp
from l2gnet_core.scans.labels import LabelSet
from napari_l2gnet.annotating.annotation import Annotation, Version
from napari_l2gnet.annotating.learning import card_of, tidied
from napari_l2gnet.annotating.preview import AFTER, BEFORE
from napari_l2gnet.annotating.task_events import Answer
from napari_l2gnet.annotating.tasks import annotation_of
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.masks.organs import as_called_in, with_organs_of
from napari_l2gnet.masks.segmentation import Segmentation

#: Dice of a new organ on slices left out, below which interpolation does better: that reaches 0.8
#: to 0.9 on abdominal organs between five painted slices.
_WELL = 0.8


def as_chosen(segmentation: Segmentation, answer: Answer) -> Answer:
    """An answer, tidied again if the choices were changed while it was computed."""
    tidying = answer.answered.tidying
    if (tidying.choices if tidying else CleanUp()) == segmentation.clean_up:
        return answer
    labels, answered = tidied(segmentation, answer.raw, answer.answered)
    return replace(answer, tidied=labels, answered=answered)


def take_in(mask: MaskLayer, answer: Answer, number: int, brought: tuple[int, ...] = ()) -> int:
    """Adopt the answer of a version as one undoable step; returns how many voxels change.

    brought: ids of organs that the version gave the mask; undoing the step takes them away again.
    """
    annotation_of(mask).keep_first_answer()
    segmentation = mask.segmentation
    changed = mask.adopt(
        answer.tidied,
        answer.raw,
        number,
        traces=answer.traces,
        completes=segmentation.places,
        model=answer.answered.model,
        brings=brought,
    )
    _record(segmentation, answer.answered, changed)
    return changed


def fill_in(mask: MaskLayer, filled: Mapping[SliceKey, NDArray[Any]], organ: int | None) -> int:
    """Adopt an organ (None: all) as interpolation filled it in, as one undoable step; returns how
    many voxels change.

    All else stays as it is now: an answer may have been undone since the interpolation began.
    """
    annotation, segmentation = annotation_of(mask), mask.segmentation
    annotation.keep_first_answer()
    changed = mask.fill(annotation.interpolated(filled, organ))
    segmentation.events.append(Interpolated(segmentation.answers(filled), changed > 0))
    return changed


def accept(mask: MaskLayer, annotation: Annotation) -> int:
    """Adopt a complete proposal as one undoable step, and add its model as a version.

    Returns how many voxels change. Raises InputError as `bring_organs` does.
    """
    proposal = annotation.proposal
    assert proposal is not None
    assert proposal.learnt is not None
    assert proposal.answer is not None
    learnt = proposal.learnt

    def version_for(one: Annotation) -> Version:
        parent, result = one.segmentation.version, learnt.result
        return Version(one.next_name(), proposal.kind, parent, result.model, result.verdict)

    if learnt.result.model.card.labels.names.keys() - mask.segmentation.card.labels.names.keys():
        # Redo may have removed an organ since it was taught.
        bring_organs(mask, annotation, version_for(annotation))
    answer = as_chosen(annotation.segmentation, proposal.answer)
    labels, raw, filled = _with_filled(annotation, answer)
    _clear_proposal(annotation)
    annotation.keep_first_answer()
    version = version_for(annotation)
    version.raw, version.traces = answer.raw, answer.traces
    version.tidying = answer.answered.tidying
    number = annotation.add_version(version)
    for other in proposal.others:
        other.segmentation.events.append(learnt)
        other.add_version(version_for(other))
    segmentation = annotation.segmentation
    changed = mask.adopt(
        labels,
        raw,
        number,
        traces=answer.traces,
        completes=segmentation.places,
        model=learnt.result.model,
    )
    answered = replace(answer.answered, filled=segmentation.answers(filled))
    _record(segmentation, answered, changed)
    annotation.changed.emit("versions")
    return changed


def _with_filled(
    annotation: Annotation, answer: Answer
) -> tuple[NDArray[Any], NDArray[Any], list[SliceKey]]:
    """A proposal, tidied and raw (t,z,y,x), with the organs that its model hardly knows as
    interpolation filled them in; and the slices that hold such organs."""
    segmentation, filled = annotation.segmentation, annotation.filled
    tidied, raw = answer.tidied, answer.raw
    if filled:
        tidied, raw = tidied.copy(), raw.copy()
    for place in filled:
        labels = segmentation.slice_of(tidied, place)
        labels[...] = annotation.with_filled(place, labels)
        # Tidying begins with the raw answer, which must hold the filled-in organs, too.
        segmentation.slice_of(raw, place)[...] = labels
    return tidied, raw, filled


def bring_organs(mask: MaskLayer, annotation: Annotation, version: Version) -> tuple[int, ...]:
    """Give a mask the organs of a version's model that it lacks, such as those learnt from another
    mask; returns their ids. Raises InputError."""
    mine = mask.segmentation.card.labels
    # One that was removed here comes back with its name here.
    removed = LabelSet(tuple(one for one, _ in mask.segmentation.removed.values()))
    theirs = as_called_in(card_of(version, annotation), removed).labels
    new = LabelSet(tuple(one for one in theirs if one.id not in mine.names))
    if new.labels:
        mask.relabel(with_organs_of(mine, new))
        annotation.changed.emit("organs")
    return tuple(new.names)


def _record(segmentation: Segmentation, answered: Answered, changed: int) -> None:
    """Add an adopted answer to the events. changed: how many shown voxels it changed."""
    spared = frozenset(segmentation.reviewed)
    segmentation.events.append(replace(answered, spared=spared, undoable=changed > 0))


def drop_proposal(annotation: Annotation) -> None:
    """Discard the proposal, if there is one, and its preview."""
    if annotation.proposal is not None and annotation.proposal.learnt is not None:
        model = annotation.proposal.learnt.result.model
        annotation.segmentation.events.append(Discarded(model))
    _clear_proposal(annotation)


def _clear_proposal(annotation: Annotation) -> None:
    if annotation.preview is not None:
        annotation.preview.remove()
        annotation.preview = None
    if annotation.proposal is not None:
        annotation.propose(None)


def flip(annotation: Annotation) -> None:
    """Show the proposal if the mask is shown, and else the mask."""
    if annotation.preview is not None:
        annotation.preview.show(AFTER if annotation.preview.mode == BEFORE else BEFORE)


def verdict_message(learnt: FineTuned) -> str:
    """The outcome of a fine-tuning, in plain words."""
    verdict = learnt.result.verdict
    dice = verdict.evidence.dice
    if not verdict.kept or not dice.before:
        return verdict.reason
    (before, after), gain = dice.means(), dice.gain()
    if dice.clear:
        risen = "Hardly anything is learnt yet on" if dice.hardly_learnt else "Better on"
        where = risen if gain > 0 else "Lower on"
        change = f"{gain:+.3f} Dice ({before:.3f} to {after:.3f})"
    else:
        where = "No clear change on"
        change = f"{before:.3f} to {after:.3f} Dice" if gain else f"{before:.3f} Dice"
    sentences = [
        f"{where} {verdict.evidence.judged_on}: {change}.",
        "This was measured in short test runs, not with the model of this preview, and says little "
        "about other slices.",
        *verdict.evidence.adapted,
        "Check the preview, then accept or discard it.",
    ]
    names = learnt.result.model.card.labels.names
    weak = [names[id] for id in weak_organs(learnt)]
    if weak and learnt.config.kind == "scan":
        sentences.append(
            f"The {weak[0]} is hardly learnt yet (Dice {dice.after[weak[0]]:.2f}). In this scan, "
            "Interpolate between slices gives better results for it. What interpolation has filled "
            "in stays."
        )
    return " ".join(sentences)


def weak_organs(learnt: FineTuned) -> tuple[int, ...]:
    """Ids of new organs that are learnt so poorly that interpolation does better."""
    dice = learnt.result.verdict.evidence.dice.after
    old, new = (model.card.labels.names for model in (learnt.parent, learnt.result.model))
    weak = (id for id, name in new.items() if id not in old and dice.get(name, 1) < _WELL)
    return tuple(weak)
