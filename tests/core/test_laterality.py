"""Structures that change places in a mirror image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.laterality import apart_by_direction, mirror_pairs

#: Ways to write a side in a name.
STYLES = (
    ("left {}", "right {}"),
    ("{} left", "{} right"),
    ("{}_l", "{}_r"),
    ("{}_L", "{}_R"),
    ("{}-Left", "{}-Right"),
    ("Left_{}", "Right_{}"),
    ("L {}", "R {}"),
    ("lt. {}", "rt. {}"),
    ("{} (left)", "{} (right)"),
)
PAIRED = ("kidney", "parotid", "adrenal gland", "optic nerve", "Lateral Ventricle", "Größe", "lung")
SINGLE = ("liver", "spleen", "mandible", "brain stem", "larynx", "vertebra L1", "oesophagus", "LV")


def pairs(*names: str) -> tuple[tuple[int, int], ...]:
    return mirror_pairs(LabelSet.from_names(dict(enumerate(names, 1))))


@given(st.data())
def test_partners_are_found_in_any_order_and_style(data):
    organs = data.draw(st.lists(st.sampled_from(PAIRED), unique=True, min_size=1))
    single = data.draw(st.lists(st.sampled_from(SINGLE), unique=True))
    couples = []
    for organ in organs:
        style = data.draw(st.sampled_from(STYLES))
        couples.append(tuple(side.format(organ) for side in style))
    names = data.draw(st.permutations([*single, *(name for couple in couples for name in couple)]))
    # Ids with gaps: classes are numbered by order.
    found = mirror_pairs(LabelSet.from_names({3 * i + 5: name for i, name in enumerate(names)}))
    assert {(names[a - 1], names[b - 1]) for a, b in found} == set(couples)
    # With one partner missing, nothing may be mirrored.
    lost = data.draw(st.sampled_from([name for couple in couples for name in couple]))
    assert pairs(*(name for name in names if name != lost)) == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("liver", "right kidney", "left kidney", "spleen"), ((3, 2),)),
        (("kidneyRight", "kidneyLeft"), ((2, 1),)),
        (("left kidney", "kidney_r"), ((1, 2),)),
        (("L", "R"), ((1, 2),)),
        (("rib_left_1", "rib_left_2", "rib_right_2", "rib_right_1"), ((1, 4), (2, 3))),
        (("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"), ((1, 2),)),
    ],
)
def test_pairs(names, found):
    assert pairs(*names) == found


@pytest.mark.parametrize(
    "names",
    [
        ("liver", "spleen"),
        ("structure 1", "structure 2"),
        ("left kidney", "right kidney", "left lung"),
        ("lung_middle_lobe_right", "left kidney", "right kidney"),
        # Sides that differ in function.
        ("right ventricle", "myocardium", "left ventricle"),
        ("heart_atrium_left", "heart_atrium_right", "kidney_left", "kidney_right"),
        ("left lobe of the liver", "right lobe of the liver"),
        # Letters that may be sides.
        ("LV", "RV", "left kidney", "right kidney"),
        ("Eye_AL", "Eye_AR", "parotid_l", "parotid_r"),
        ("LKidney", "RKidney", "lung left", "lung right"),
        ("left kidney", "kidney left", "right kidney"),
        ("left to right shunt",),
    ],
)
def test_in_doubt_nothing_is_mirrored(names):
    assert pairs(*names) == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("anterior", "posterior"), [("anterior", "posterior")]),
        (("liver", "kidney_r", "left kidney"), [("kidney_r", "left kidney")]),
        (("lung upper lobe", "lung lower lobe"), [("lung upper lobe", "lung lower lobe")]),
        (
            ("superior vena cava", "vena cava inferior"),
            [("superior vena cava", "vena cava inferior")],
        ),
        # The heart's sides look different in any orientation.
        (("left ventricle", "right ventricle"), []),
        (("left lung", "right kidney", "upper lip", "posterior"), []),
    ],
)
def test_structures_that_differ_by_a_direction(names, found):
    assert apart_by_direction(LabelSet.from_names(dict(enumerate(names, 1)))) == found
