"""The residual of a curve fit, and its data made safe.

    r = W (model(x, params) - y),    W = diag(1 / sigma), or L^-1 where sigma = L L'

is a covariance. Rows that do not count hold harmless numbers, so that no NaN meets a
derivative's zero.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._basics.checks import (
    broadcast_like,
    is_concrete,
    list_to_array,
    real_tree,
    same_structure,
)
from .._functions.callables import Function, module_of
from .._functions.expected import expected
from .._functions.floating import as_floats
from .per_row import are_rows
from .sigma import check_deviations


class Factor(eqx.Module):
    """The lower Cholesky factor L of a covariance of the data."""

    lower: Float[Array, "m m"]

    def whiten(self, rows: Float[Array, "m ..."]) -> Float[Array, "m ..."]:
        """L^-1 times the rows: their covariance becomes the identity."""
        columns = rows.reshape(rows.shape[0], -1)
        white = jax.scipy.linalg.solve_triangular(self.lower, columns, lower=True)
        return white.reshape(rows.shape)


class CurveData(eqx.Module):
    """Data of a curve fit; `sigma` is None, in the structure of `y`, or a `Factor`."""

    x: PyTree[ArrayLike]
    y: PyTree[ArrayLike]
    sigma: PyTree[ArrayLike] | Factor | None

    def weigh(self, rows):
        """W times rows in the structure of `y`, with any axes behind those of `y`."""
        if self.sigma is None:
            return rows
        if isinstance(self.sigma, Factor):
            return jax.tree.map(self.sigma.whiten, rows)

        def divide(sigma, part):
            # The axes of sigma are the first ones of each array.
            wide = [
                sigma.reshape(sigma.shape + (1,) * (a.ndim - sigma.ndim))
                if sigma.ndim
                else sigma
                for a in jax.tree.leaves(part)
            ]
            return jax.tree.map(
                jnp.divide, part, jax.tree.unflatten(jax.tree.structure(part), wide)
            )

        return jax.tree.map(divide, self.sigma, rows)


class Curve(eqx.Module):
    """The residual of a curve fit: W (model(x, params) - y)."""

    model: Function

    def __call__(self, params, data: CurveData):
        with expected("model", "model(x, params), with x first", data.x, params):
            predicted = self.model(self._x(self.model, params, data), params)
        predicted = like_data(predicted, data.y)
        same_structure(predicted, data.y, "the value of `model`", "`y`")

        def difference(f, y):
            f = jnp.asarray(f)
            if f.shape != y.shape:
                raise ValueError(
                    f"`model` returned shape {f.shape} where `y` has {y.shape}: a "
                    "model must give one prediction for each datum."
                )
            return f - y

        return data.weigh(jax.tree.map(difference, predicted, data.y))

    def jacobian(self, fn: Callable, params, data: CurveData):
        """The residual's Jacobian from the model's own, `fn(x, params)`."""
        derivative = fn(self._x(fn, params, data), params)
        if jax.tree.structure(params) == jax.tree.structure(0):
            derivative = like_data(derivative, data.y)
        return data.weigh(derivative)

    @staticmethod
    def _x(fn: Callable, params, data: CurveData):
        """x as `fn(x, params)` is to see it."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return as_floats(lambda x: fn(x, params), data.x, dtype)


def like_data(predicted, y):
    """A sequence of predictions as one array where y is, and the other way round.

    NumPy subtracts an array from a list of them without asking.
    """
    if jax.tree.structure(predicted) == jax.tree.structure(y):
        return predicted
    several = type(predicted) in (list, tuple)
    if type(y) in (list, tuple):
        if several and len(predicted) == len(y):
            return type(y)(predicted)
        if hasattr(predicted, "shape") and predicted.shape[:1] == (len(y),):
            return type(y)(predicted[i] for i in range(len(y)))
    elif several and hasattr(y, "shape"):
        shapes = {(len(predicted), *np.shape(part)) for part in predicted}
        if len(shapes) == 1 and shapes.pop()[: y.ndim] == y.shape:
            here = all(isinstance(part, np.ndarray) for part in predicted)
            return (np if here else jnp).stack(predicted)
    return predicted


def curve_data(
    x: PyTree[Array],
    y: PyTree[Array],
    sigma: PyTree[ArrayLike] | None,
    mask: PyTree[Array] | None,
) -> CurveData:
    """The data with `sigma` checked and in its final form, and masked rows filled."""
    if sigma is not None:
        sigma = real_tree(list_to_array(sigma), "sigma", inexact=True)
        sigma = _covariance_factor(sigma, y, mask) or _deviations(sigma, y, mask)
    if mask is not None:
        x, y, sigma = _fill_masked(x, y, sigma, mask)
    return module_of(CurveData, x=x, y=y, sigma=sigma)


def _deviations(sigma, y, mask):
    # One standard deviation for all stays one number: no array as long as y.
    sigma = broadcast_like(sigma, y, "sigma", "y", keep_scalars=True)
    sigma = jax.tree.map(jnp.asarray, sigma)
    if not is_concrete((sigma, mask)):
        return sigma
    leaves = jax.tree.leaves(sigma)
    masks = [True] * len(leaves) if mask is None else jax.tree.leaves(mask)
    for leaf, used in zip(leaves, masks, strict=True):
        value = np.asarray(leaf)
        check_deviations(value, np.asarray(used), "`y`")
    return sigma


def _covariance_factor(sigma, y, mask) -> Factor | None:
    """The factor of a `sigma` of shape (m, m) for a `y` of shape (m,), else None.

    Masked data are given unit variance and no covariance, which leaves the others
    with their own.
    """
    leaves = jax.tree.leaves((sigma, y))
    if (
        len(leaves) != 2
        or leaves[1].ndim != 1
        or leaves[0].shape != leaves[1].shape * 2
    ):
        return None
    (c, y) = leaves
    if mask is not None:
        used = jax.tree.leaves(mask)[0]
        c = jnp.where(used[:, None] & used, c, jnp.eye(y.size, dtype=c.dtype))
    lower = jnp.linalg.cholesky(c)
    if is_concrete(lower):
        c, lower = np.asarray(c), np.asarray(lower)
        if not np.isfinite(c).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(c))[0])
            raise ValueError(f"`sigma` must be finite, got {c[index]} at {index}.")
        skew = np.abs(c - c.T) > 1e-8 * np.sqrt(
            np.abs(np.outer(c.diagonal(), c.diagonal()))
        )
        if skew.any():
            i, j = (int(k) for k in np.argwhere(skew)[0])
            raise ValueError(
                f"`sigma` must be symmetric, got {c[i, j]} at {(i, j)} and {c[j, i]} "
                f"at {(j, i)}: it is the covariance matrix of `y`."
            )
        if not np.isfinite(lower).all():
            raise ValueError(
                "`sigma` must be positive definite, and this covariance matrix is not: "
                "its smallest eigenvalue is "
                f"{np.linalg.eigvalsh(c)[0]:.3g}."
            )
    return Factor(jnp.asarray(lower))


def _fill_masked(x, y, sigma, mask):
    """Harmless numbers in masked rows.

    y and sigma become 0 and 1. In x only what is not finite is replaced, by the first
    unmasked row: a model may look at its neighbours, and finite x are the user's.
    """
    y = jax.tree.map(lambda m, v: jnp.where(m, v, 0), mask, y)
    if sigma is not None and not isinstance(sigma, Factor):
        sigma = jax.tree.map(lambda m, v: jnp.where(m, v, 1), mask, sigma)
    first = jax.tree.leaves(mask)[0]

    def fill(leaf, is_row):
        if not is_row or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        row_ok = first.reshape(first.shape[0], -1).any(axis=1)
        # Not by an index, which rows on several devices do not have.
        at = jnp.arange(len(row_ok)) == jnp.argmax(row_ok)
        at = at.reshape((-1,) + (1,) * (leaf.ndim - 1))
        good = jnp.sum(jnp.where(at, leaf, 0), axis=0)
        safe = jnp.where(jnp.isfinite(good), good, 0)
        rows_bad = ~row_ok.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.where(rows_bad & ~jnp.isfinite(leaf), safe, leaf)

    return jax.tree.map(fill, x, are_rows(x, len(first))), y, sigma
