"""Splits, made or written by hand: no patient is in two parts."""

from __future__ import annotations

import json
from itertools import pairwise
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2gnet_core.datasets.cases import Patients
from l2gnet_core.datasets.loading import open_dataset
from l2gnet_core.datasets.split import checked_split, read_split, split_patients, split_problems
from l2gnet_core.errors import InputError

quick = settings(max_examples=30, deadline=None)


@quick
@given(
    st.integers(3, 120),
    st.integers(0, 999),
    st.floats(0, 0.4),
    st.floats(0, 0.3),
)
def test_splits_are_disjoint_complete_and_never_empty(count, seed, test, tuning):
    everyone = [f"p{index:03}" for index in range(count)]
    split = split_patients(everyone, seed, test, tuning)
    parts = (split.train, split.tuning, split.test)
    assert all(parts)
    assert sorted(sum(parts, ())) == everyone
    assert split == split_patients(everyone[::-1], seed, test, tuning)
    assert abs(len(split.test) - test * count) <= 1
    assert abs(len(split.tuning) - tuning * count) <= 1


@quick
@given(st.integers(0, 9999))
def test_splits_reach_every_block_of_neighbours(seed):
    # 100 patients numbered by disease, as in ACDC: five blocks of twenty.
    everyone = [f"patient{index:03}" for index in range(1, 101)]
    split = split_patients(everyone, seed, 0.2, 0.05)
    places = [int(patient[-3:]) for patient in split.test]
    blocks = np.bincount([(place - 1) // 20 for place in places], minlength=5)
    assert (blocks == 4).all()
    assert max(b - a for a, b in pairwise(places)) < 10
    tuning = [(int(patient[-3:]) - 1) // 20 for patient in split.tuning]
    assert len(set(tuning)) >= 4


def test_few_patients_are_all_trained_on():
    assert split_patients(["a"], 0, 0.2, 0.1).train == ("a",)
    assert split_patients(["a", "b"], 0, 0.2, 0.1).train == ("a", "b")


def test_shares_take_no_more_patients_than_there_are():
    three = split_patients(["a", "b", "c"], 0, 0.5, 0.5)
    assert sorted(three.test + three.tuning) == ["a", "b", "c"]
    for shares in [(0.5, 0.6), (1.2, 0.0), (-0.1, 0.2)]:
        with pytest.raises(InputError, match="1 together at most"):
            split_patients(["a", "b", "c"], 0, *shares)


def test_a_split_never_parts_a_patient(make_dataset):
    names = [f"patient{p:03}_frame{f:02}" for p in range(6) for f in (1, 9)]
    dataset = open_dataset(make_dataset(names))
    split = split_patients(dataset.patients, 0, 0.2, 0.1)
    parts = {part: split.cases(dataset, part) for part in ("train", "tuning", "test")}
    assert sum(map(len, parts.values())) == 12
    where = {case.patient: part for part, cases in parts.items() for case in cases}
    for part, cases in parts.items():
        assert len(cases) % 2 == 0
        assert {where[case.patient] for case in cases} == {part}


@quick
@given(
    st.integers(1, 40),
    st.dictionaries(st.integers(0, 39), st.sampled_from(["tuning", "test"])),
    st.integers(0, 99),
)
def test_whom_a_dataset_holds_out_stays_out(count, held_out, seed):
    everyone = [f"p{index:03}" for index in range(count)]
    held_out = {f"p{index:03}": part for index, part in held_out.items() if index < count}
    split = split_patients(everyone, seed, 0.2, 0.1, held_out)
    assert sorted(split.train + split.tuning + split.test) == everyone
    for part in ("tuning", "test"):
        held = sorted(patient for patient, where in held_out.items() if where == part)
        assert not held or sorted(getattr(split, part)) == held
    assert split.train or len(held_out) == count
    problems = split_problems(vars(split), Patients({p: p for p in everyone}, held_out), "x")
    assert all("train is empty" in problem for problem in problems)


ALL = {"train": ["a", "b"], "tuning": ["c"], "test": ["d"]}
# "x" is another name of "d" and "y" of "b": they share a scan.
PEOPLE = Patients({"a": "a", "b": "b", "c": "c", "d": "d", "x": "d", "y": "b"}, {"d": "test"})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tuning": ["c", "b"]}, "b is in train and in tuning"),
        ({"tuning": ["c", "y"]}, "b in train and y in tuning share an identical scan"),
        ({"train": ["a", "b", "d"], "test": []}, "Expected d in test"),
        ({"tuning": []}, "c is in no part"),
        ({"train": ["a", "b", "e", "f"]}, "e, f are missing"),
        ({"train": [], "tuning": ["a", "b", "c"]}, "train is empty"),
    ],
)
def test_a_split_that_mixes_patients_is_refused(changed, says, one_sentence):
    with pytest.raises(InputError, match=says) as error:
        checked_split({**ALL, **changed}, PEOPLE, "split.json")
    one_sentence(error.value)


def test_both_names_of_a_patient_may_be_in_one_part():
    split = checked_split({**ALL, "test": ["x", "d"]}, PEOPLE, "split.json")
    assert (split.train, split.tuning, split.test) == (("a", "b"), ("c",), ("d",))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{}",
        '{"train": "abc", "tuning": [], "test": []}',
        '{"train": ["a"]}',
        "\xff",
        "[" * 100_000,
    ],
    ids=lambda text: "no file" if text is None else text[:20],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, text, one_sentence):
    if text is not None:
        (tmp_path / "split.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="Expected lists of the patients") as error:
        read_split(tmp_path)
    one_sentence(error.value)
    (tmp_path / "split.json").write_text(json.dumps(ALL))
    assert read_split(tmp_path) == read_split(tmp_path / "split.json") == ALL


def test_names_of_a_split_may_store_accents_apart(tmp_path):
    decomposed = normalize("NFD", "pät_1")
    (tmp_path / "split.json").write_text(json.dumps({**ALL, "train": [decomposed]}))
    assert read_split(tmp_path)["train"] == [normalize("NFC", decomposed)]


def test_a_split_may_name_scans_for_their_patients(make_dataset):
    names = ["sub-07_T1w", "sub-08_T1w", "sub-09_T1w", "heart03_visit2", "heart04_visit1"]
    people = open_dataset(make_dataset(names)).people
    parts = {
        "train": ["sub-07_T1w", "heart03_visit2", "heart04"],
        "tuning": ["sub-08_T1w"],
        "test": ["sub-09_T1w"],
    }
    assert not list(split_problems(parts, people, "split.json"))
    split = checked_split(parts, people, "split.json")
    assert split.train == ("sub-07", "heart03", "heart04")
    assert split.test == ("sub-09",)
    # Two scans of a patient are reported to be in two parts.
    parts["tuning"].append("sub-07_T2w")
    assert any("sub-07" in problem for problem in split_problems(parts, people, "split.json"))
