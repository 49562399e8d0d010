"""A process that annotates at random until it is killed; run by test_crash.

After each thing it does it logs [time, checksums of the slices, reviewed slices, versions taught].
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from l2gnet_core.card import ModelCard
from l2gnet_core.checkpoint import Model
from l2gnet_core.config import preset
from l2gnet_core.corrections import Correction
from l2gnet_core.finetune import FineTuneResult
from l2gnet_core.finetune_config import SCAN
from l2gnet_core.guard import Evidence, Improvement, Verdict
from l2gnet_core.labels import LabelSet
from l2gnet_core.model import build
from l2gnet_core.project.deeds import Answered, FineTuned
from l2gnet_core.project.folder import find_projects
from l2gnet_core.project.scans import identify
from l2gnet_core.project.state import SliceState
from l2gnet_core.volume import Grid, Volume
from napari_l2gnet.keeper import keep
from napari_l2gnet.mask_layer import MaskLayer
from napari_l2gnet.resume import read_work
from napari_l2gnet.segmentation import Segmentation

SHAPE = (12, 64, 64)
LABELS = LabelSet.from_names({1: "one", 2: "two", 3: "three"})
KEPT = Verdict(True, "Kept.", Evidence(0.5, 1, Improvement({}, {}), None, None))


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
            mask = Segmentation.resumed(self.volume.grid, work.state, work.slices)
            self.mask = MaskLayer.show(self.viewer, image, mask, work.state.labels)
            keep(self.mask, self.volume, None, work.folder)
        else:
            self.mask = MaskLayer.add(self.viewer, image, self.volume.grid, a_model(0).card, 0)
            keep(self.mask, self.volume)
            answer = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
            for index, labels in enumerate(answer):
                self.mask.put((0, index), labels)
            places = [(0, index) for index in range(SHAPE[0])]
            self.mask.segmentation.deeds.append(Answered("segmented", a_model(0), places))
        self.model = a_model(0)
        self.taught: list[str] = []
        self.log()

    def act(self) -> None:
        what = self.random.choices(
            ["stroke", "brush", "script", "undo", "review", "teach"], [8, 4, 2, 3, 2, 1]
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
        elif what == "undo":
            layer.undo()
        elif what == "review":
            segmentation.reviewed.symmetric_difference_update({(0, index)})
        else:
            self.teach(index)
        self.log()

    def teach(self, index: int) -> None:
        """A new version, as if it had been learnt."""
        parent, self.model = self.model, a_model(self.seed * 1000 + len(self.taught))
        self.taught.append(self.model.card.name)
        labels = np.ones(SHAPE, np.uint8)
        correction = Correction(self.volume.data, self.volume.grid, 0, labels, (index,))
        result = FineTuneResult(self.model, KEPT, 1, 1.0, ((1.0,),))
        deed = FineTuned(parent, [correction], replace(SCAN, folds=0), result)
        self.mask.segmentation.deeds.append(deed)

    def log(self) -> None:
        segmentation = self.mask.segmentation
        checksums = [checksum(segmentation.slice_state(place)) for place in segmentation.places]
        reviewed = sorted(index for _, index in segmentation.reviewed)
        line = json.dumps([time.time(), checksums, reviewed, self.taught])
        os.write(self.file, (line + "\n").encode())


def main() -> None:
    application = QApplication([])
    annotator = Annotator(Path(sys.argv[1]), int(sys.argv[2]))
    timer = QTimer(interval=40)
    timer.timeout.connect(annotator.act)
    timer.start()
    print("annotating", flush=True)
    application.exec()


if __name__ == "__main__":
    main()
