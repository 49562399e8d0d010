"""Names and colours of structures."""

from __future__ import annotations

import numpy as np
import pytest

from l2gnet_core.scans.labels import (
    OVER,
    PALETTE,
    LabelSet,
    classes_by_name,
    is_automatic,
    may_be_a_scan,
    own_colors,
    plain,
)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("kidney_right", "Right kidney", True),
        ("Ve\u0301sicule  biliaire", "v\u00e9sicule biliaire", True),
        ("left kidney", "right kidney", False),
        ("lung_upper_lobe_left", "lung_lower_lobe_left", False),
        ("vertebrae_L1", "vertebrae_L11", False),
        ("disc_L4_L5", "disc_L5_L4", False),
    ],
)
def test_names_are_compared_by_their_words(one, other, same):
    assert (plain(one) == plain(other)) is same


def test_many_structures_have_colours_that_can_be_told_apart():
    many = LabelSet.from_names({id: f"organ {id}" for id in range(1, 118)}, {9: "#123456"})
    assert tuple(many.colors.values())[:7] == PALETTE
    assert many.colors[9] == "#123456"
    assert len(set(many.colors.values())) == 117
    # Colours depend on the id alone, not on the other organs.
    assert LabelSet.from_names({40: "liver"}).colors[40] == many.colors[40] == own_colors()[39]
    rgb = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in own_colors()])
    # Colours differ from greys, black, white and the colour of what is drawn over masks.
    assert np.ptp(rgb, 1).min() > 40
    assert (rgb @ [0.3, 0.59, 0.11]).min() > 50
    assert (rgb @ [0.3, 0.59, 0.11]).max() < 235
    over = [int(OVER[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(rgb - over).sum(1).min() > 40


@pytest.mark.parametrize(
    ("ids", "known", "odd"),
    [
        (range(11), (), False),
        (range(12), (), True),
        (range(118), range(118), False),
        (range(31), range(16), False),
        (range(31), range(15), True),
    ],
)
def test_many_ids_that_nothing_knows_may_be_intensities(ids, known, odd):
    assert may_be_a_scan(ids, known) == odd


def test_structures_without_names_are_matched_by_id():
    known = LabelSet.from_names({1: "liver", 4: "structure 4", 5: "spleen"})
    assert classes_by_name(known, LabelSet.from_names({1: "Liver", 5: "spleen"})) == [0, 1, 3]
    numbered = LabelSet.from_names({1: "structure 1", 4: "structure 4"})
    assert classes_by_name(known, numbered) == [0, 1, 2]
    assert classes_by_name(known, LabelSet.from_names({7: "structure 7"})) is None


@pytest.mark.parametrize("name", ["", " ", "Segment_1", "segment 12", "label 3", "structure 4"])
def test_automatic_names_say_nothing(name):
    assert is_automatic(name)
    assert not is_automatic(f"left {name} of something")
