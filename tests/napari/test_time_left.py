"""How long a job will still take."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from generators import ended

from napari_l2gnet.jobs import time_left
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
