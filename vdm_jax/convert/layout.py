"""How one array lies in the files of torch libraries, and how it lies here; and back.

Theirs: output before input, channels before pixels. Ours: input before output, channels last, and
the features of attention split by heads. Every layout is exact both ways.
"""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """theirs: the shape that an array of ours has with them.

    bring: their array and our shape to ours. take: our array and their shape to theirs.
    """

    theirs: Callable[[Shape], Shape]
    bring: Callable[[np.ndarray, Shape], np.ndarray]
    take: Callable[[np.ndarray, Shape], np.ndarray]


def _reshape(array: np.ndarray, shape: Shape) -> np.ndarray:
    return array.reshape(shape)


def _negated(array: np.ndarray, shape: Shape) -> np.ndarray:
    return -array.reshape(shape)


def _input_first(array: np.ndarray, shape: Shape) -> np.ndarray:
    """(o, i, *window) -> (*window, i, o), reshaped."""
    window = range(2, array.ndim)
    return array.transpose(*window, 1, 0).reshape(shape)


def _output_first(array: np.ndarray, shape: Shape) -> np.ndarray:
    """The inverse of `_input_first`; shape: (o, i, *window)."""
    o, i, *window = shape
    array = array.reshape(*window, i, o)
    return array.transpose(-1, -2, *range(len(window)))


def _kernel(theirs: Callable[[Shape], Shape]) -> Layout:
    return Layout(theirs, _input_first, _output_first)


SAME = Layout(lambda shape: shape, _reshape, _reshape)
VECTOR = Layout(lambda shape: (prod(shape),), _reshape, _reshape)
NEGATED = Layout(lambda shape: shape, _negated, _negated)
LINEAR = _kernel(lambda shape: (prod(shape[1:]), shape[0]))  # (i, o) or (i, heads, size)
LINEAR_OUT = _kernel(lambda shape: (shape[-1], prod(shape[:-1])))  # (heads, size, o)
POINT = _kernel(lambda shape: (shape[1], shape[0], 1, 1))  # (i, o): a 1x1 convolution with them
CONV = _kernel(lambda shape: (shape[3], shape[2], shape[0], shape[1]))  # (h, w, i, o)
VIDEO = _kernel(lambda shape: (shape[4], shape[3], *shape[:3]))  # (frames, h, w, i, o)
FRAMES = _kernel(lambda shape: (shape[3], shape[2], shape[0], 1, 1))  # (frames, 1, i, o)
