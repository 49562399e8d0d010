"""A generator inside another: its moments in other words, its result at the end."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from l2gnet_core.relay import relayed


def counted(most: int) -> Generator[int, None, str]:
    yield from range(most)
    return f"{most} in all"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_each_moment_is_told_and_the_result_comes_back(most: int) -> None:
    def outer() -> Generator[str, None, None]:
        result = yield from relayed(counted(most), lambda number: f"step {number}")
        yield result

    assert list(outer()) == [*(f"step {number}" for number in range(most)), f"{most} in all"]


def test_an_error_of_the_inner_work_reaches_the_outer() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    moments = relayed(failing(), str)
    assert next(moments) == "1"
    with pytest.raises(ValueError, match="broken"):
        next(moments)
