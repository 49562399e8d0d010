"""Labels between annotated slices, from the shapes on both sides and the image between them.

Shapes alone (`l2gnet_core.interpolation.shapes`) find the place of an organ but not its exact
border. The annotated slices show how far off they are, and how the image looks on both sides of the
true border: each is compared with what the shapes in the other slices would give there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.interpolation.shapes import annotated, shape_steps, signed_distances
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.bounding_box import bounding_box

#: Distance from an interpolated border, in pixels, within which the true one is searched.
_BAND = 12
#: Sigmas, in pixels, of blurred brightness, and of gradients and Laplacians.
_BLURS, _EDGES = (1.0, 2.0, 4.0, 8.0), (1.0, 2.0, 4.0)
#: Fewest slices with a structure that allow a comparison, and most pixels to learn from.
_FEWEST, _MOST_PIXELS = 3, 60_000
#: Trees of a forest. A few grow at once, which takes about as long as a slice between annotated
#: ones.
_TREES, _GROWN_AT_ONCE = 100, 5
#: Pixels that a forest predicts at once, at most: they take 0.3 s on one core. Each call takes some
#: time by itself, so slices with few pixels are predicted together.
_AT_ONCE = 30_000
#: Sigma in pixels by which the chance to be inside is blurred, so that borders are smooth.
_SMOOTH = 1.0
#: Added to the distance, in slices, if only one side has an annotated slice.
_ONE_SIDED = 10.0

Array = NDArray[Any]
Floats = NDArray[np.float32]
#: Yields (done, total) pieces of work, all about as long, wherever the caller may stop it; returns
#: the mask.
Steps = Generator[tuple[int, int], None, Array]


def guided_slices(
    scan: Array,
    labels: Array,
    slices: Sequence[int],
    axis: int = 0,
    pixel: tuple[float, float] = (1.0, 1.0),
    only: int | None = None,
) -> Steps:
    """A mask (z,y,x) from annotated slices of labels (z,y,x) and the scan (z,y,x): these slices as
    they are, labels from shapes and image between them, zero beyond the first and the last.

    Arguments and errors are those of `interpolate_slices`, whose result stands for structures in
    fewer than three slices. Random forests (extremely randomised trees: Geurts et al., Machine
    Learning 2006) with a fixed seed tell inside from outside.
    """
    known = annotated(slices, labels.shape[axis])
    between = sorted(set(range(known[0], known[-1])) - set(known))
    result = np.zeros_like(labels)
    filled, painted = np.moveaxis(result, axis, 0), np.moveaxis(labels, axis, 0)
    held = {int(id) for k in known for id in np.unique(painted[k])} - {0}
    shown = sorted(held if only is None else held & {only})
    structures = {id: _Shapes({k: painted[k] == id for k in known}, pixel) for id in shown}
    structures = {id: shapes for id, shapes in structures.items() if shapes.comparable}
    total = sum(shapes.pieces for shapes in structures.values()) or len(between)
    for count in shape_steps(result, labels, slices, axis, pixel, only):
        # Beside the forests, shapes take hardly any time.
        yield 0 if structures else count, total
    stack, window = np.moveaxis(scan, axis, 0), intensity_window(scan)
    chances: dict[int, dict[int, Floats]] = {}
    before = 0
    for id, shapes in structures.items():
        chances[id] = {}
        for done in _chances(stack, shapes, window, chances[id]):
            yield before + done, total
        before += shapes.pieces
    for index in between if structures else ():
        picture = filled[index]
        picture[np.isin(picture, list(structures))] = 0
        best = np.full(picture.shape, np.float32(0.5))
        for id, shapes in structures.items():
            if index in chances[id]:
                chance = ndimage.gaussian_filter(chances[id][index], _SMOOTH)
                so_far = best[shapes.box]
                picture[shapes.box][chance > so_far] = id
                np.maximum(chance, so_far, out=so_far)
        yield total, total
    return result


class _Shapes:
    """One structure in the annotated slices of a mask.

    inside: (H,W), by the indices of the annotated slices, in ascending order. pixel: its size along
    H and W.
    """

    def __init__(self, inside: Mapping[int, NDArray[np.bool_]], pixel: tuple[float, float]) -> None:
        holding = [k for k in inside if inside[k].any()]
        first = max((k for k in inside if k < holding[0]), default=holding[0])
        last = min((k for k in inside if k > holding[-1]), default=holding[-1])
        self.known = [k for k in inside if first <= k <= last]
        #: Slices between those.
        self.between = sorted(set(range(first, last)).difference(self.known))
        self.comparable = len(holding) >= _FEWEST
        #: Pieces of work of `_chances`.
        self.pieces = _TREES // _GROWN_AT_ONCE + len(self.between)
        anywhere = np.any([inside[k] for k in self.known], 0)
        box = bounding_box(anywhere, _BAND + 2 * int(max(_BLURS)))
        assert box is not None
        self.box = box
        self._inside = inside
        # Relative to the smaller side of a pixel, so that distances are in pixels.
        self._pixel = (pixel[0] / min(pixel), pixel[1] / min(pixel))

    def truth(self, index: int) -> NDArray[np.bool_]:
        """The structure in an annotated slice."""
        return self._inside[index][self.box]

    def guess(self, index: int) -> tuple[Floats, float]:
        """Signed distance (H,W) to the border that the other annotated slices suggest, positive
        inside, and the distance in slices to the nearest of them."""
        before = [k for k in self.known if k < index]
        after = [k for k in self.known if k > index]
        if before and after:
            a, b = before[-1], after[0]
            one, other = signed_distances(self.truth(a), self.truth(b), self._pixel)
            share = (index - a) / (b - a)
            return ((1 - share) * one + share * other).astype(np.float32), min(index - a, b - index)
        nearest = before[-1] if before else after[0]
        one, _ = signed_distances(self.truth(nearest), self.truth(nearest), self._pixel)
        return one.astype(np.float32), _ONE_SIDED + abs(index - nearest)


def _chances(
    stack: Array, shapes: _Shapes, window: tuple[float, float], chances: dict[int, Floats]
) -> Iterator[int]:
    """Find for each slice between annotated ones the chance (H,W) that a pixel of the box is
    inside. Yields how many pieces of work are done."""
    from sklearn.ensemble import ExtraTreesClassifier

    def seen(index: int) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """The band (H,W) in which the border may be, the features of its pixels, and the guess."""
        guess, distance = shapes.guess(index)
        band = np.abs(guess) < _BAND
        image = normalise(stack[index][shapes.box], window)
        told = [*(one[band] for one in pixel_features(image)), guess[band]]
        told.append(np.full(len(told[0]), distance, np.float32))
        return band, np.stack(told, 1), guess

    told, answers = [], []
    for index in shapes.known:
        band, features, _ = seen(index)
        told.append(features)
        answers.append(shapes.truth(index)[band])
        yield 0
    features, inside = np.concatenate(told), np.concatenate(answers)
    every = max(1, len(inside) // _MOST_PIXELS)
    forest = ExtraTreesClassifier(min_samples_leaf=5, n_jobs=-1, random_state=0, warm_start=True)
    done = 0
    for trees in range(_GROWN_AT_ONCE, _TREES + 1, _GROWN_AT_ONCE):
        forest.set_params(n_estimators=trees).fit(features[::every], inside[::every])
        done += 1
        yield done
    asked: list[tuple[int, NDArray[np.bool_], Floats]] = []
    for index in shapes.between:
        band, features, guess = seen(index)
        chances[index] = (guess > 0).astype(np.float32)
        asked.append((index, band, features))
        if index == shapes.between[-1] or sum(len(one) for *_, one in asked) >= _AT_ONCE:
            if len(forest.classes_) > 1:
                for _ in _answer(forest, asked, chances):
                    yield done
            asked = []
        done += 1
        yield done


def _answer(
    forest: Any,
    asked: Sequence[tuple[int, NDArray[np.bool_], Floats]],
    chances: dict[int, Floats],
) -> Iterator[None]:
    """Write a forest's predictions for the bands of some slices into their chances, in steps."""
    features = np.concatenate([one for *_, one in asked])
    if not len(features):
        return
    told = []
    for some in np.array_split(features, math.ceil(len(features) / _AT_ONCE)):
        told.append(forest.predict_proba(some)[:, 1])
        yield
    answers, start = np.concatenate(told), 0
    for index, band, one in asked:
        chances[index][band] = answers[start : start + len(one)]
        start += len(one)


def pixel_features(image: Floats) -> list[Floats]:
    """Features of each pixel of a slice (H,W) in [0,1]: brightness, and its blurs, gradients and
    Laplacians at several scales."""
    found = [image, *(ndimage.gaussian_filter(image, sigma) for sigma in _BLURS)]
    for sigma in _EDGES:
        found.append(ndimage.gaussian_gradient_magnitude(image, sigma))
        found.append(ndimage.gaussian_laplace(image, sigma))
    return found
