"""A process that annotates at random until it is killed; run by test_crash.

After each thing it does it logs [time, checksums of the slices, reviewed slices, models of the
versions, model shown]. It says so once it has accepted a model that it taught.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QApplication

from l2gnet_core.finetuning import run as finetuning
from l2gnet_core.finetuning.guard import Evidence, Verdict
from l2gnet_core.models.card import ModelCard
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.network.config import preset
from l2gnet_core.network.model import build
from l2gnet_core.project.events import Answered
from l2gnet_core.project.folder import find_projects
from l2gnet_core.project.scans import identify
from l2gnet_core.project.state import SliceState
from l2gnet_core.scans.labels import LabelSet
from l2gnet_core.scans.volume import Grid, Volume
from napari_l2gnet.annotating.learning import model_of
from napari_l2gnet.annotating.tasks import annotation_of, fine_tuning
from napari_l2gnet.correct.proposals import accept, drop_proposal
from napari_l2gnet.correct.run import CorrectRun
from napari_l2gnet.jobs.session import Session
from napari_l2gnet.masks.layer import MaskLayer
from napari_l2gnet.saving.autosave import keep
from napari_l2gnet.saving.resume import read_work

SHAPE = (12, 64, 64)
LABELS = LabelSet.from_names({1: "one", 2: "two", 3: "three"})


def the_scan() -> Volume:
    return Grid(SHAPE).volume(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


def a_model(seed: int) -> Model:
    import torch

    torch.manual_seed(seed)
    return Model(build(preset("tiny", 4)).eval(), ModelCard(f"model{seed}", LABELS))


def checksum(state: SliceState) -> int:
    number = 0
    for array in (state.labels, state.by_person, state.raw):
        number = zlib.crc32(np.ascontiguousarray(array).data, number)
    return number


class Annotator:
    def __init__(self, log: Path, seed: int) -> None:
        self.random, self.seed = random.Random(seed), seed
        self.file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.volume = the_scan()
        self.viewer = ViewerModel()
        image = self.viewer.add_image(self.volume.data, name="scan")
        found = find_projects(identify(self.volume))
        if found:
            (work,) = read_work(found[0].path)
            mask = work.segmentation
            self.mask = MaskLayer.show(self.viewer, image, mask, work.state.labels)
            self.annotation = annotation_of(self.mask)
            self.annotation.resume(work.versions, work.shown)
            keep(self.mask, self.volume, None, work.folder)
        else:
            self.mask = MaskLayer.add(self.viewer, image, self.volume.grid, a_model(0).card, 0)
            keep(self.mask, self.volume)
            answer = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
            for index, labels in enumerate(answer):
                self.mask.put((0, index), labels)
            places = [(0, index) for index in range(SHAPE[0])]
            first = a_model(0)
            self.mask.segmentation.model = first
            self.mask.segmentation.events.append(Answered("segmented", first, places))
            self.annotation = annotation_of(self.mask)
            self.annotation.versions[0].model = first
        self.session, self.parent = Session(), QObject()
        self.annotation.review((0, seed % SHAPE[0]))
        self.teach()
        self.log()

    def act(self) -> None:
        what = self.random.choices(
            ["stroke", "brush", "script", "undo", "redo", "review", "teach"], [8, 4, 2, 4, 1, 2, 1]
        )[0]
        segmentation, layer = self.mask.segmentation, self.mask.layer
        index = self.random.randrange(SHAPE[0])
        row, column = self.random.randrange(58), self.random.randrange(58)
        label = self.random.randrange(4)
        if what == "stroke":
            box = np.mgrid[index : index + 1, row : row + 5, column : column + 5].reshape(3, -1)
            layer.data_setitem(tuple(box), label)
        elif what == "brush":
            layer.brush_size = 3
            layer.paint((index, row + 2, column + 2), label)
        elif what == "script":
            layer.data[index, row : row + 5, column : column + 5] = label
        elif what in ("undo", "redo"):
            getattr(layer, what)()
        elif what == "review":
            segmentation.reviewed.symmetric_difference_update({(0, index)})
        elif not self.annotation.job and self.annotation.taught:
            self.teach()
        self.log()

    def teach(self) -> None:
        """Fine-tune for a moment, and mostly accept the result."""
        task = fine_tuning([self.mask], "scan", 0.2, False)
        run = CorrectRun(self.session, self.mask, self.annotation, self.parent)

        def decide(outcome: str, text: str) -> None:
            assert outcome == "finished", text
            if self.annotation.versions[1:] and self.random.random() < 0.3:
                drop_proposal(self.annotation)
            else:
                accept(self.mask, self.annotation)
                print("accepted", flush=True)
            self.log()

        run.ended.connect(decide)
        run.learn(task)

    def log(self) -> None:
        segmentation = self.mask.segmentation
        checksums = [checksum(segmentation.slice_state(place)) for place in segmentation.places]
        reviewed = sorted(index for _, index in segmentation.reviewed)
        models = [
            model_of(self.session, version, self.annotation, "cpu").card.name
            for version in self.annotation.versions
        ]
        shown = models[segmentation.version]
        line = json.dumps([time.time(), checksums, reviewed, models, shown])
        os.write(self.file, (line + "\n").encode())


def kept(limits: Any, evidence: Evidence, known: Any) -> Verdict:
    """Keep any model: nothing can be learnt from noise."""
    return Verdict(True, "Kept.", evidence)


def main() -> None:
    finetuning.judged = kept
    application = QApplication([])
    annotator = Annotator(Path(sys.argv[1]), int(sys.argv[2]))
    timer = QTimer(interval=40)
    timer.timeout.connect(annotator.act)
    timer.start()
    application.exec()


if __name__ == "__main__":
    main()
