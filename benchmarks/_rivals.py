"""Methods that turn corrected slices into a mask: ours, and all that it is compared with.

Each method sees the same slices of the same scan and answers with a whole mask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from _annotator import doubted
from _finetune_variants import UNGUARDED, Variant, finetuned
from _shifts import UNMARKED, Scan
from numpy.typing import NDArray

from l2gnet_core.finetuning.config import FineTuneConfig
from l2gnet_core.interpolation.guided import guided_slices, pixel_features
from l2gnet_core.interpolation.shapes import interpolate_slices
from l2gnet_core.models.checkpoint import Model
from l2gnet_core.models.weights import mixed
from l2gnet_core.network.model import build
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.segmenting.corrections import Correction
from l2gnet_core.segmenting.predict import segment

Array = NDArray[np.generic]
#: The most pixels that a random forest learns from.
_FOREST_PIXELS = 60_000


@dataclass(frozen=True)
class Answer:
    """A mask (z,y,x), the seconds of learning (prediction is not counted, because every model
    needs it), the slices that the queue proposes next, and more to save."""

    mask: Array
    seconds: float
    proposed: list[int] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Task:
    """A scan to correct: the model to adapt, the ids that count and their names, and `start`, the
    model's mask of the scan."""

    model: Model
    scan: Scan
    names: Mapping[int, str]
    variant: Variant
    start: Array
    limit: Mapping[str, Any]
    _learnt: dict[tuple[int, ...], tuple[Model, float, int]] = field(default_factory=dict)

    @property
    def painted(self) -> Array:
        """The true labels of `names`, as an annotator would paint them."""
        truth = self.scan.truth
        return np.where(np.isin(truth, list(self.names)), truth, 0).astype(truth.dtype)

    @property
    def new(self) -> dict[int, str]:
        """Names of structures that the model does not have."""
        return {id: n for id, n in self.names.items() if id not in self.model.card.labels.names}

    def config(self, config: FineTuneConfig) -> FineTuneConfig:
        """Settings with the task's limit of time or steps."""
        return replace(config, names=self.new, **self.limit)

    def correction(self, slices: Sequence[int], scribbled: bool = False) -> Correction | None:
        """The corrected slices; None if no slice holds a structure."""
        scan, labels, unmarked = self.scan, self.painted, None
        if scribbled:
            assert scan.scribbles is not None
            labels, unmarked = scan.scribbles, UNMARKED
        marked = [i for i in slices if (np.take(labels, i, scan.axis) != unmarked).any()]
        held = [
            i for i in marked if not np.isin(np.take(labels, i, scan.axis), [0, unmarked]).all()
        ]
        if not held:
            return None
        weights = None
        if self.variant.touched != 1 and not scribbled:
            wrong = self.start != labels
            weights = np.where(wrong, np.float32(self.variant.touched), np.float32(1))
        return Correction(
            scan.scan,
            scan.grid,
            scan.axis,
            labels,
            tuple(marked),
            unmarked,
            weights,
            checked={index: list(self.names) for index in marked},
        )

    def naive(self, slices: Sequence[int]) -> tuple[Model, float, int]:
        """Naive fine-tuning → model, seconds, steps. Cached, because `half` mixes the same one."""
        key = tuple(sorted(slices))
        if key not in self._learnt:
            self._learnt.clear()
            plain = FineTuneConfig(
                adapts_appearance=False,
                learns_anew=False,
                folds=0,
                limits=UNGUARDED,
                pull=0.0,
                cautious_mix=1.0,
            )
            self._learnt[key] = self._plainly(self.model, plain, slices)
        return self._learnt[key]

    def _plainly(
        self, model: Model, config: FineTuneConfig, slices: Sequence[int]
    ) -> tuple[Model, float, int]:
        correction = self.correction(slices)
        if correction is None:
            return model, 0.0, 0
        result = finetuned(model, [correction], Variant(self.config(config)))
        return result.model, result.seconds, result.all_steps

    def answer(self, model: Model, seconds: float, **more: Any) -> Answer:
        scan = self.scan
        return Answer(segment(model, scan.scan, scan.grid, scan.axis), seconds, more=more)


def ours(task: Task, slices: Sequence[int], scribbled: bool = False) -> Answer:
    """Guarded fine-tuning; the answer also holds what the queue proposes next."""
    scan, correction = task.scan, task.correction(slices, scribbled)
    if correction is None:
        mask, proposed = doubted(task.model, scan.scan, scan.grid, scan.axis)
        return Answer(mask, 0.0, proposed, {"kept": None})
    variant = replace(task.variant, config=task.config(task.variant.config))
    result = finetuned(task.model, [correction], variant)
    mask, proposed = doubted(result.model, scan.scan, scan.grid, scan.axis)
    more = {"steps": result.all_steps, **result.verdict.to_json()}
    return Answer(mask, result.seconds, proposed, more)


def manual(task: Task, slices: Sequence[int]) -> Answer:
    """Nothing learns: the other slices stay as the model segmented them."""
    return Answer(task.start, 0.0)


def interpolation(task: Task, slices: Sequence[int]) -> Answer:
    """Shape interpolation between corrected slices; empty beyond them."""
    started = time.perf_counter()
    mask = interpolate_slices(task.painted, slices, task.scan.axis)
    return Answer(mask, time.perf_counter() - started)


def guided(task: Task, slices: Sequence[int]) -> Answer:
    """Interpolation by shape and image between corrected slices, as in the widgets; empty beyond
    them."""
    started = time.perf_counter()
    steps = guided_slices(task.scan.scan, task.painted, slices, task.scan.axis)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Answer(end.value, time.perf_counter() - started)


def naive(task: Task, slices: Sequence[int]) -> Answer:
    """Fine-tuning of all weights, without pull, mix or guard."""
    model, seconds, steps = task.naive(slices)
    return task.answer(model, seconds, steps=steps)


def half(task: Task, slices: Sequence[int]) -> Answer:
    """Halfway between the old and the naively fine-tuned weights."""
    model, seconds, steps = task.naive(slices)
    old = task.model.network
    if model.network.config == old.config:
        model = Model(mixed(old, model.network, 0.5), model.card)
    return task.answer(model, seconds, steps=steps)


def scratch(task: Task, slices: Sequence[int]) -> Answer:
    """The same body without a bottleneck, from fresh weights, on the corrected slices alone."""
    torch.manual_seed(0)
    config = replace(task.model.network.config, architecture="unet")
    fresh = build(config).to(memory_format=torch.channels_last).eval()
    plain = FineTuneConfig(
        adapts_appearance=False,
        learns_anew=False,
        folds=0,
        limits=UNGUARDED,
        pull=0.0,
        cautious_mix=1.0,
        learning_rate=2e-3,
    )
    model, seconds, steps = task._plainly(Model(fresh, task.model.card), plain, slices)
    return task.answer(model, seconds, steps=steps)


def forest(task: Task, slices: Sequence[int], scribbled: bool = False) -> Answer:
    """A random forest on the appearance of each pixel and its surroundings, and on its place."""
    from sklearn.ensemble import RandomForestClassifier

    started = time.perf_counter()
    axis = task.scan.axis
    scan = np.moveaxis(task.scan.scan, axis, 0)
    labels = task.scan.scribbles if scribbled else task.painted
    assert labels is not None
    painted = np.moveaxis(labels, axis, 0)
    features = placed_features(normalise(scan, intensity_window(scan)))
    x = np.concatenate([features[i].reshape(-1, features.shape[-1]) for i in slices])
    y = np.concatenate([painted[i].ravel() for i in slices])
    known = np.flatnonzero(y != UNMARKED) if scribbled else np.arange(len(y))
    rng = np.random.default_rng(0)
    drawn = rng.permutation(known)[:_FOREST_PIXELS]
    trees = RandomForestClassifier(
        100, min_samples_leaf=3, n_jobs=torch.get_num_threads(), random_state=0
    )
    trees.fit(x[drawn], y[drawn])
    said = trees.predict(features.reshape(-1, features.shape[-1])).reshape(scan.shape)
    mask = np.moveaxis(said.astype(np.uint8), 0, axis)
    return Answer(mask, time.perf_counter() - started)


def placed_features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,H,W) → (n,H,W,f): `pixel_features` of each pixel, and its place."""
    features = [np.stack(pixel_features(one), -1) for one in image]
    place = np.meshgrid(*(np.linspace(0, 1, n) for n in image.shape), indexing="ij")
    return np.concatenate([np.stack(features), np.stack(place, -1)], -1).astype(np.float32)


Method = Callable[[Task, Sequence[int]], Answer]
#: By name, in the order in which they run. The other methods correct the slices that ours asked
#: for, or evenly spaced slices, which suit interpolation better.
METHODS: dict[str, Method] = {
    "ours": ours,
    "ours, evenly": ours,
    "ours, scribbles": lambda task, slices: ours(task, slices, scribbled=True),
    "half mixed": half,
    "naive": naive,
    "from scratch": scratch,
    "random forest": forest,
    "random forest, evenly": forest,
    "random forest, scribbles": lambda task, slices: forest(task, slices, scribbled=True),
    "guided interpolation": guided,
    "interpolation": interpolation,
    "interpolation, evenly": interpolation,
    "manual": manual,
}
