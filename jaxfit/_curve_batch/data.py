"""Data of many fits on the host, to be cut into slices.

The leading axes of y are the batch, its last axis holds the m data of a fit. Everything
else is shared by all fits or has the batch's axes in front. Arrays stay where they are,
in a memory map for instance, until a slice of them is asked for.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from .._curve.program import Given


@dataclasses.dataclass(frozen=True)
class Part:
    """An array that all fits share, or one with the fits along its first axis."""

    value: np.ndarray
    per_fit: bool

    def cut(self, rows: Any, dtype: np.dtype) -> np.ndarray:
        """The rows of some fits, or what all share; floats in the dtype of the fit."""
        value = self.value[rows] if self.per_fit else self.value
        keep = value.dtype.kind in "bui"
        return np.asarray(value, None if keep else dtype, order="C")


@dataclasses.dataclass(frozen=True)
class BatchData:
    """What a batch of shape `shape` is fitted to and from, rows first, m rows a fit."""

    x: Any  # a PyTree of Parts
    y: Part
    sigma: Part | None
    mask: Part | None
    start: Part
    limits: tuple[Part, Part] | None
    free: tuple[int, ...]  # positions of the parameters that are fitted
    shape: tuple[int, ...]
    rows_last: bool
    omit: bool  # leave out what is not finite
    dtype: np.dtype
    f_scale: float

    @property
    def size(self) -> int:
        return self.y.value.shape[0]

    @property
    def num_rows(self) -> int:
        return self.y.value.shape[1]

    @property
    def num_params(self) -> int:
        return self.start.value.shape[-1]

    @property
    def x_is_finite(self) -> bool:
        """Whether no x needs to be replaced where it is masked."""
        return all(
            part.value.dtype.kind in "bui"
            or (not part.per_fit and bool(np.isfinite(part.value).all()))
            for part in jax.tree.leaves(self.x, is_leaf=_is_part)
        )

    @property
    def shares_x(self) -> bool:
        """Whether all fits have the same x."""
        parts = jax.tree.leaves(self.x, is_leaf=_is_part)
        return not any(part.per_fit for part in parts)

    def starting(
        self, values: np.ndarray, where: np.ndarray | bool = True
    ) -> "BatchData":
        """The same from other starts, or from some; what is held keeps its own."""
        whole = np.broadcast_to(self.start.value, (self.size, self.num_params)).copy()
        free = np.isin(np.arange(self.num_params), self.free)
        np.copyto(whole, values, where=free & where)
        return dataclasses.replace(self, start=Part(whole, True))

    def only(self, rows: np.ndarray) -> "BatchData":
        """The data of some of the fits, as a batch of one axis."""

        def some(part):
            return Part(part.value[rows], True) if part.per_fit else part

        parts = jax.tree.map(some, self._parts(), is_leaf=_is_part)
        x, y, sigma, mask, start, limits = parts
        return dataclasses.replace(
            self,
            **{"x": x, "y": y, "sigma": sigma, "mask": mask},
            **{"start": start, "limits": limits, "shape": (len(rows),)},
        )

    def cut(self, rows: Any) -> tuple[Given, tuple[bool, ...]]:
        """What the program is given for some fits, and which leaves are per fit."""

        def part(part):
            return part.cut(rows, self.dtype)

        parts = self._parts()
        x, y, sigma, mask, start, limits = jax.tree.map(part, parts, is_leaf=_is_part)
        flags = jax.tree.map(lambda p: p.per_fit, parts, is_leaf=_is_part)
        if self.omit:
            good = self._finite(rows, y)
            mask = good if mask is None else good & mask
            flags = (*flags[:3], True, *flags[4:])
        f_scale = np.asarray(self.f_scale, self.dtype)
        given = Given(x, y, sigma, mask, None, start, limits, f_scale)
        return given, (*jax.tree.leaves(flags), False)

    def _parts(self) -> tuple:
        return self.x, self.y, self.sigma, self.mask, self.start, self.limits

    def _finite(self, rows: Any, y: np.ndarray) -> np.ndarray:
        good = np.isfinite(y)
        for part in jax.tree.leaves(self.x, is_leaf=_is_part):
            value = part.value[rows] if part.per_fit else part.value
            if value.dtype.kind == "f" and self.num_rows in value.shape:
                axes = tuple(range(1 + part.per_fit, value.ndim))
                good &= np.isfinite(value).all(axis=axes)
        return good


def _is_part(leaf: Any) -> bool:
    return isinstance(leaf, Part)
