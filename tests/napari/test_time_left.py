"""How long a job will still take."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from generators import ended

from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid
from l2gnet_core.segmenting import predict
from l2gnet_core.segmenting.predict import SlicePrediction
from napari_l2gnet.jobs import time_left
from napari_l2gnet.jobs.segment_places import ScanFrames, segment_places
from napari_l2gnet.jobs.time_left import TimeLeft, in_words, with_time_left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(time_left.time, "perf_counter", lambda: now[0])
    return now


def test_a_slow_beginning_does_not_count(clock: list[float]) -> None:
    left = TimeLeft(300)
    said = []
    for done, seconds in ((1, 12.0), (2, 0.3), (3, 0.3), (4, 0.3)):
        clock[0] += seconds
        said.append(left.after(done))
    assert said[:2] == [None, None]
    assert said[2:] == pytest.approx([0.3 * 297, 0.3 * 296])


def test_nothing_is_left_at_the_end(clock: list[float]) -> None:
    left = TimeLeft(3)
    said = []
    for done in (1, 2, 3):
        clock[0] += 1
        said.append(left.after(done))
    assert said == [None, None, 0]


def test_pieces_that_are_done_together_took_their_time_together(clock: list[float]) -> None:
    left = TimeLeft(96)
    clock[0] += 30
    assert left.after(32) is None
    clock[0] += 8
    assert [left.after(64), left.after(64)] == [8, 8]
    # Meanwhile the time goes on, and does not run out before its pieces are done.
    clock[0] += 3
    assert left.after(64) == 5
    clock[0] += 9
    assert left.after(64) == 0
    assert left.each == 0.25
    longer = TimeLeft(128, each=0.25)
    longer.after(32)
    clock[0] += 60
    assert longer.after(32) == 64 * 0.25


@pytest.mark.parametrize(("total", "each"), [(1, 9), (20, 0.1)])
def test_what_all_pieces_took_together_counts_if_they_are_many(
    clock: list[float], total: int, each: float
) -> None:
    left = TimeLeft(total, each=9)
    clock[0] += 2
    assert left.after(total) == 0
    assert left.each == each


def test_slices_that_a_model_sees_together_come_one_by_one(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(*_: Any) -> Iterator[SlicePrediction | None]:
        for first in (0, 4, 8):
            clock[0] += 2
            yield None
            clock[0] += 2
            for place in range(4):
                labels = np.zeros((8, 8), np.uint8)
                yield SlicePrediction(first + place, labels, "cpu", ahead=3 - place)

    monkeypatch.setattr(predict, "predict_slices", batches)
    network = SimpleNamespace(config=SimpleNamespace(architecture="unet"))
    model: Any = SimpleNamespace(
        network=network, card=ModelCard("m", LabelSet.from_names({1: "a"}))
    )
    scan = ScanFrames(Grid((12, 8, 8)).volume(np.zeros((12, 8, 8), np.uint8)), 0)
    steps = [*segment_places(model, scan, [(0, range(12))], 12, "cpu")]
    assert [step.seconds_left for step in steps[2:]] == [None] * 6 + [4] * 4 + [2] + [0] * 4
    assert [step.done for step in steps[2:]] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12]
    assert steps[-1].slice_seconds == 1


def test_until_pieces_tell_what_they_took_before_does(clock: list[float]) -> None:
    left = TimeLeft(4, each=5)
    said = [left.after(0)]
    for done in (1, 2, 3):
        clock[0] += 2
        said.append(left.after(done))
    assert said == [20, 15, 10, 2]
    assert left.each == 2


def test_steps_that_count_pieces_tell_their_share_and_the_time_left(clock: list[float]) -> None:
    def counting() -> Generator[tuple[int, int], None, str]:
        for done in (0, 0, 1, 2, 3, 4):
            clock[0] += 2 if done else 50
            yield done, 4
        return "mask"

    *_, third, fourth = steps = list(with_time_left(counting()))
    assert steps[:4] == [(0, None), (0, None), (0.25, None), (0.5, None)]
    assert third == (0.75, 2)
    assert fourth == (1, 0)
    assert ended(with_time_left(counting())) == "mask"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.2, ""), (0.6, "1 s left"), (89, "89 s left"), (125, "2 min left")],
)
def test_in_words(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
