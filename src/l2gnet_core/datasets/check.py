"""Find what is wrong with a dataset before training starts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from l2gnet_core.datasets.cases import (
    Case,
    Finding,
    Patients,
    find_cases,
    is_first_channel,
)
from l2gnet_core.datasets.compare import Examined, compare, names_in_files, same_patients
from l2gnet_core.datasets.settings import read_settings
from l2gnet_core.datasets.split import read_split, split_problems
from l2gnet_core.errors import InputError
from l2gnet_core.models.card import ModelCard
from l2gnet_core.scans.fingerprint import fingerprint, order_free_fingerprint
from l2gnet_core.scans.labels import LabelSet, is_automatic, may_be_a_scan, plain, some
from l2gnet_core.scans.laterality import apart_by_direction
from l2gnet_core.scans.volume import HEADERS_ROUND, Volume, distance_apart, slicing_axis
from l2gnet_core.segmenting.slice_view import slice_view


class Survey:
    """An examination of all files of a dataset.

    cases: with the patients that files or dataset.json name. names: structure by id, of
    dataset.json or else of the label files. description: of dataset.json.
    findings: what is wrong; complete once `examine` is exhausted.
    Raises InputError if the folder is not a dataset.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cases, self.findings = find_cases(folder)
        settings = read_settings(folder / "dataset.json")
        self.names, self.description = dict(settings.names), settings.description
        known = settings.patients
        self.cases = [replace(case, patient=known.get(case.name, case.patient)) for case in cases]
        strangers = sorted(known.keys() - {case.name for case in cases})
        if strangers:
            sentence = (
                f"dataset.json gives a patient to {some(strangers)}, but no scan is called so; "
                "write names as the files have them, without .nii.gz."
            )
            self.findings.append(Finding("warning", "", sentence))
        if len(settings.channels) > 1 and any(is_first_channel(case) for case in self.cases):
            sentence = (
                f"dataset.json names {len(settings.channels)} channels "
                f"({some(list(settings.channels))}), but a model sees one: only the first is "
                "learnt from."
            )
            self.findings.append(Finding("warning", "", sentence))
        self._examined: list[Examined] = []

    def examine(self) -> Iterator[Case]:
        """Read all files, yielding each case once it is examined."""
        for number, case in enumerate(self.cases):
            try:
                examined, findings = _examine(case, self.names)
            except InputError as error:
                code = _reader_code(case, str(error))
                self.findings.append(Finding("error", case.name, str(error), code))
            else:
                self._examined.append(examined)
                self.cases[number] = replace(case, grid=examined.grid)
                self.findings += findings
            yield case
        if not self.names:
            found = sorted({id for one in self._examined for id in one.voxels} - {0})
            named, contradictions = names_in_files(self._examined)
            self.names = {id: named.get(id, f"structure {id}") for id in found}
            self.findings += contradictions or _without_settings(found, named, self._examined)
        self.findings += compare(self._examined, self.names, self.patients)

    def examine_split(self, file: Path) -> None:
        """Add what is wrong with a written split of the dataset. To be called after `examine`.

        Raises InputError for a file that is not a split.
        """
        problems = split_problems(read_split(file), self.patients, str(file))
        self.findings += [Finding("error", "", sentence) for sentence in problems]

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop training."""
        return [finding for finding in self.findings if finding.kind == "error"]

    @property
    def patients(self) -> Patients:
        """The patients, as far as cases are examined."""
        names = same_patients(self.cases, self._examined)
        parts = {names[case.patient]: case.part for case in self.cases if case.part is not None}
        return Patients(names, parts)

    @property
    def held(self) -> dict[str, set[int]]:
        """Label ids by patient, as far as cases are examined."""
        found: dict[str, set[int]] = defaultdict(set)
        names = self.patients.names
        for one in self._examined:
            found[names[one.case.patient]].update(one.voxels)
        return found

    @property
    def fingerprints(self) -> dict[str, set[str]]:
        """Fingerprints of frames, of both kinds, by patient, as far as cases are examined."""
        found: dict[str, set[str]] = defaultdict(set)
        names = self.patients.names
        for one in self._examined:
            found[names[one.case.patient]].update(one.fingerprints, one.frame_hashes)
        return found


def direction_findings(names: Mapping[int, str]) -> list[Finding]:
    """A warning if structures (name by id) differ by a direction; for training without
    --oriented."""
    pairs = apart_by_direction(LabelSet.from_names(names))
    if not pairs:
        return []
    one, other = pairs[0]
    more = f" (as {len(pairs) - 1} more pairs do)" if len(pairs) > 1 else ""
    sentence = (
        f"{one} and {other} differ by a direction{more}, but without --oriented training views are "
        "turned and mirrored at will; train with it where scans say how they lie, unless what is "
        "around tells them apart."
    )
    return [Finding("warning", "", sentence)]


def grouped_messages(findings: Iterable[Finding], most: int = 3) -> Iterator[str]:
    """Findings as lines. Of a fault that more than `most` cases have, only the first ones are told,
    because a mistake in converting is in every file."""
    alike: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        alike[finding.kind, finding.code or finding.sentence].append(finding)
    for (kind, _), same in alike.items():
        for finding in same[:most]:
            yield f"{kind}: {finding.case + ': ' if finding.case else ''}{finding.sentence}"
        if len(same) > most:
            names = some([finding.case for finding in same[most:]])
            yield f"{kind}: the same of {len(same) - most} more: {names}."


def _without_settings(
    ids: Sequence[int], named: Mapping[int, str], examined: Sequence[Examined]
) -> Iterator[Finding]:
    """What to say of structures without a dataset.json. named: those that label files name; labels
    that hold very many others may be scans."""
    if named:
        told = some([f"{id} {name}" for id, name in sorted(named.items())])
        yield Finding("note", "", f"No dataset.json is there: label files name {told}.")
        silent = [one.case.name for one in examined if one.voxels.keys() - {0} and not one.names]
        if silent:
            sentence = (
                f"The labels of {some(silent)} name nothing: their ids are taken for those of the "
                "other files. If they mean something else, give the structures one id in all."
            )
            yield Finding("warning", "", sentence)
    unnamed = [str(id) for id in ids if id not in named]
    if not unnamed:
        return
    told = some(unnamed)
    odd = [one for one in examined if may_be_a_scan(one.voxels, named)]
    if not odd:
        sentence = f"No dataset.json names the structures {told}: they go by their ids."
        yield Finding("note", "", sentence)
        return
    most = max(len(one.voxels.keys() - {0}) for one in odd)
    sentence = (
        f"No dataset.json names the structures {told}, and there are up to {most} in the labels of "
        f"{some([one.case.name for one in odd])}: if these are scans, put their masks in their "
        "place; otherwise name the structures."
    )
    yield Finding("warning", "", sentence)


def _reader_code(case: Case, sentence: str) -> str:
    """A code for the sentence of a file reader: its words without the case's name and numbers,
    because readers give no codes."""
    return re.sub(r"\d+", "", sentence.replace(case.name, ""))


def _examine(case: Case, names: dict[int, str]) -> tuple[Examined, list[Finding]]:
    """A summary of a case, and its findings. Raises InputError if a file cannot be read."""
    volume, stored = case.read()
    truth = stored.volume
    ids, counts = np.unique(truth.data, return_counts=True)
    voxels = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    own = {
        id: " ".join(name.split())
        for id, name in stored.names.items()
        if id and id in voxels and not is_automatic(name)
    }
    findings = [
        *_errors(case, volume, truth, voxels, names),
        *_other_ids(case, own, names),
        *_warnings(case, volume, truth),
    ]
    pairs = [
        (scan, marks if marks.shape == scan.shape else None)
        for scan, marks in zip(volume.frames, truth.frames, strict=False)
        if scan.min() != scan.max()
    ]
    examined = Examined(
        case,
        volume.grid,
        voxels,
        own,
        fingerprints=tuple(fingerprint(scan) for scan, _ in pairs),
        frame_hashes=tuple(order_free_fingerprint(scan) for scan, _ in pairs),
        label_hashes=tuple(order_free_fingerprint(scan, marks) for scan, marks in pairs),
    )
    return examined, findings


def _errors(
    case: Case, volume: Volume, truth: Volume, voxels: Mapping[int, int], names: Mapping[int, str]
) -> Iterator[Finding]:
    """Faults of a scan and its labels that stop training; voxels: how many of each label id."""
    if volume.data.min() == volume.data.max():
        sentence = "The scan has one intensity everywhere; export it again or take it out."
        yield Finding("error", case.name, sentence, "one intensity")
    if mismatch := _mismatch(volume, truth):
        code, sentence = mismatch
        yield Finding("error", case.name, sentence, code)
    left_open = [id for id, name in names.items() if name.lower() == "ignore" and id in voxels]
    if left_open:
        sentence = (
            f'Label {left_open[0]} is nnU-Net\'s "ignore", voxels that nobody labelled, which '
            "would be learnt as a structure; label them, or take the scan out."
        )
        yield Finding("error", case.name, sentence, "unlabelled voxels")
    unknown = sorted(voxels.keys() - {0, *names}) if names else []
    if unknown:
        sentence = (
            f"Label ids {some(list(map(str, unknown)))} are not in dataset.json; name them there "
            "or take them out."
        )
        yield Finding("error", case.name, sentence, "unknown ids")
    if voxels.keys() != {0} and np.array_equal(volume.data, truth.data):
        sentence = (
            "Expected a scan and its labels, but both hold the same values; put the scan, or the "
            "labels, in their place."
        )
        yield Finding("error", case.name, sentence, "same values")


def _other_ids(case: Case, own: Mapping[int, str], names: Mapping[int, str]) -> Iterator[Finding]:
    """An error if a label file has its `own` name of a structure under another id than dataset.json
    (names)."""
    ids = {plain(name): id for id, name in names.items()}
    for id, name in own.items():
        if (wanted := ids.get(plain(name), id)) != id:
            sentence = (
                f"Expected structures with the same ids in dataset.json and the labels, but {name} "
                f"is {wanted} in dataset.json and {id} in the labels; give it one id in both, "
                "or remove the names from the header if they are older than the ids."
            )
            yield Finding("error", case.name, sentence, "other ids")
            # Where two are exchanged, one sentence is enough.
            return


def _warnings(case: Case, volume: Volume, truth: Volume) -> Iterator[Finding]:
    """Possible faults of a scan and its labels, including the warnings of their readers."""
    # Scan and labels often have the same header; its warnings are reported once.
    read = [f"Labels: {text}" for text in truth.warnings if text not in volume.warnings]
    for sentence in (*volume.warnings, *read):
        yield Finding("warning", case.name, sentence, _reader_code(case, sentence))
    if not truth.data.any():
        sentence = "The labels are empty: background everywhere."
        yield Finding("warning", case.name, sentence, "no labels")
    elif not _mismatch(volume, truth) and (unseen := _labels_in_margins(volume, truth)):
        sentence = (
            f"{unseen} of {np.count_nonzero(truth.data)} labelled voxels lie in rows or columns at "
            "the edge that hold nothing but padding, air or noise, which a model is not shown; see "
            "whether the labels are of this scan."
        )
        yield Finding("warning", case.name, sentence, "labels in margins")
    if volume.units != truth.units:
        without = "labels give" if volume.units == "mm" else "scan gives"
        sentence = (
            f"The {without} no voxel size in mm: whether both lie in one place cannot be checked."
        )
        yield Finding("warning", case.name, sentence, f"{without} no voxel size")


def _mismatch(volume: Volume, truth: Volume) -> tuple[str, str] | None:
    """Why labels do not lie on their scan, as a code and a sentence; None where they do."""
    if volume.data.ndim > truth.data.ndim:
        return "labels of one frame", (
            f"Expected labels for each of the scan's {len(volume.data)} frames, but they are of "
            "one; save the frame that they belong to as a scan of its own."
        )
    if volume.shape != truth.shape:
        return "another shape", (
            f"Expected labels of the scan's shape {volume.shape}, but they have {truth.shape}; "
            "export them again on the scan's own grid."
        )
    distance = distance_apart(volume, truth)
    if distance > HEADERS_ROUND:
        return "another place", (
            f"Scan and labels lie up to {distance:.1f} mm apart in the world; resample the labels "
            "onto the scan's grid, or correct one of the headers."
        )
    return None


def _labels_in_margins(volume: Volume, truth: Volume) -> int:
    """How many labelled voxels lie in the empty margins of the scan's slices."""
    card = ModelCard("any", LabelSet(()))
    axis, missed = slicing_axis(volume, card.slicing), 0
    for scan, labels in zip(volume.frames, truth.frames, strict=True):
        seen = slice_view(card, volume, axis, scan).stack(labels)
        missed += int(np.count_nonzero(labels)) - int(np.count_nonzero(seen))
    return missed
