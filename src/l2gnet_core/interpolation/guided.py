"""Labels between annotated slices, from the shapes on both sides and the image between them.

Shapes alone (`l2gnet_core.interpolation.shapes`) find the place of an organ but not its exact
border. The annotated slices show how far off they are, and how the image looks on both sides of the
true border: each is compared with what the shapes in the other slices would give there.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from l2gnet_core.interpolation.shapes import interpolate_slices, signed_distances
from l2gnet_core.preprocessing.intensities import intensity_window, normalise
from l2gnet_core.scans.bounding_box import bounding_box

#: Distance from an interpolated border, in pixels, within which the true one is searched.
_BAND = 12
#: Sigmas, in pixels, of blurred brightness, and of gradients and Laplacians.
_BLURS, _EDGES = (1.0, 2.0, 4.0, 8.0), (1.0, 2.0, 4.0)
#: Fewest slices with a structure that allow a comparison, and most pixels to learn from.
_FEWEST, _MOST_PIXELS = 3, 60_000
#: Pixels that a forest predicts at once: each call takes a tenth of a second by itself.
_AT_ONCE = 60_000
#: Sigma in pixels by which the chance to be inside is blurred, so that borders are smooth.
_SMOOTH = 1.0
#: Added to the distance, in slices, if only one side has an annotated slice.
_ONE_SIDED = 10.0

Array = NDArray[Any]
Floats = NDArray[np.float32]
#: Yields None wherever the caller may stop it; returns the mask.
Steps = Generator[None, None, Array]


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
    result = interpolate_slices(labels, slices, axis, pixel, only)
    yield
    filled, painted = np.moveaxis(result, axis, 0), np.moveaxis(labels, axis, 0)
    stack, known = np.moveaxis(scan, axis, 0), sorted(set(slices))
    held = sorted({int(id) for k in known for id in np.unique(filled[k])} - {0})
    window = intensity_window(scan)
    found: dict[int, tuple[_Shapes, dict[int, Floats]]] = {}
    for id in held:
        shapes = _Shapes(painted == id, known, pixel)
        if shapes.comparable:
            found[id] = shapes, (yield from _chances(stack, shapes, window))
    for index in set(range(known[0], known[-1])) - set(known):
        picture = filled[index]
        picture[np.isin(picture, list(found))] = 0
        best = np.full(picture.shape, np.float32(0.5))
        for id, (shapes, chances) in found.items():
            if index in chances:
                chance, so_far = chances[index], best[shapes.box]
                picture[shapes.box][chance > so_far] = id
                np.maximum(chance, so_far, out=so_far)
    return result


class _Shapes:
    """One structure in the annotated slices of a mask.

    inside: (n,H,W). known: indices of the annotated slices. pixel: its size along H and W.
    """

    def __init__(self, inside: Array, known: Sequence[int], pixel: tuple[float, float]) -> None:
        holding = [k for k in known if inside[k].any()]
        first = max((k for k in known if k < holding[0]), default=holding[0])
        last = min((k for k in known if k > holding[-1]), default=holding[-1])
        self.known = [k for k in known if first <= k <= last]
        self.comparable = len(holding) >= _FEWEST
        anywhere = np.asarray(inside[self.known].any(0))
        box = bounding_box(anywhere, _BAND + 2 * int(max(_BLURS)))
        assert box is not None
        self.box = box
        self._inside = inside
        # Relative to the smaller side of a pixel, so that distances are in pixels.
        self._pixel = (pixel[0] / min(pixel), pixel[1] / min(pixel))

    def truth(self, index: int) -> NDArray[np.bool_]:
        """The structure in an annotated slice."""
        return np.asarray(self._inside[index][self.box])

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
    stack: Array, shapes: _Shapes, window: tuple[float, float]
) -> Generator[None, None, dict[int, Floats]]:
    """For each slice between annotated ones, the chance (H,W) that a pixel of the box is inside."""
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
        yield
    features, inside = np.concatenate(told), np.concatenate(answers)
    every = max(1, len(inside) // _MOST_PIXELS)
    forest = ExtraTreesClassifier(100, min_samples_leaf=5, n_jobs=-1, random_state=0)
    forest.fit(features[::every], inside[::every])
    yield
    chances: dict[int, Floats] = {}
    asked: list[tuple[int, NDArray[np.bool_], Floats]] = []
    between = sorted(set(range(shapes.known[0], shapes.known[-1])).difference(shapes.known))
    for index in between:
        band, features, guess = seen(index)
        chances[index] = (guess > 0).astype(np.float32)
        asked.append((index, band, features))
        if index == between[-1] or sum(len(one) for *_, one in asked) >= _AT_ONCE:
            if len(forest.classes_) > 1:
                _answer(forest, asked, chances)
            asked = []
        yield
    return {index: ndimage.gaussian_filter(chance, _SMOOTH) for index, chance in chances.items()}


def _answer(
    forest: Any,
    asked: Sequence[tuple[int, NDArray[np.bool_], Floats]],
    chances: dict[int, Floats],
) -> None:
    """Write a forest's predictions for the bands of some slices into their chances."""
    features = np.concatenate([one for *_, one in asked])
    if not len(features):
        return
    answers, start = forest.predict_proba(features)[:, 1], 0
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
