"""A fitted model at other points, with its derivatives by the parameters."""

import contextlib
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._basics.precision import precision
from .._basics.trees import padded, take
from .._functions.callables import Function
from .._functions.from_numpy import HostFunction
from .._problem.derivatives import columns, mode_of
from .._problem.repair import lengths, repaired
from .._programs.capture import captured
from .._programs.program import program
from .._scipy.data import read_x
from .._scipy.host import table_columns
from .._scipy.model import Inputs, ScipyModel
from .._scipy.padding import bucket, is_paddable


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with all its parameters; `rowwise` models may be padded."""

    model: ScipyModel
    params: np.ndarray  # all of them, of shape (n,)
    rowwise: bool
    tabular: bool = False  # x of the fit were the columns of a table, by name

    @staticmethod
    def of_saved(
        fn: Any, params: np.ndarray, fixed: np.ndarray, rows_last: bool
    ) -> "Predictor":
        """A predictor from a model and what a saved result tells."""
        free = tuple(int(i) for i in np.flatnonzero(~fixed))
        model = ScipyModel(Function(fn, "model"), free, rows_last, captured(fn))
        return Predictor(model, params, False)

    def values(self, xdata: Any) -> Any:
        """f(x, *params)."""
        return self._evaluate(_values, xdata)

    def slopes(self, xdata: Any) -> tuple[Any, Any, Any]:
        """f(x, *params), its derivatives by the free parameters along a last axis, and
        which of these are differences, since automatic ones are not finite."""
        return self._evaluate(_slopes, xdata)

    def _evaluate(self, fn: Any, xdata: Any) -> Any:
        dtype, model, m = self.params.dtype, self.model, None
        columns = table_columns(xdata) if self.tabular else None
        x = read_x(xdata if columns is None else columns, "x", dtype)
        rows = np.moveaxis(x, -1, 0) if model.rows_last else x
        with precision(dtype), contextlib.ExitStack() as stack:
            if isinstance(model.fn.wrapped, HostFunction):
                stack.enter_context(model.fn.wrapped.fit(x, *self.params))
            elif self.rowwise and isinstance(rows, np.ndarray) and rows.ndim:
                if len(rows) == 0:
                    raise ValueError("`x` is empty: there is nothing to predict.")
                free = self.params[list(model.free)]
                if is_paddable(model, Inputs(rows, self.params), free, len(rows)):
                    m = len(rows)
                    rows = padded(rows, bucket(m))
            out = jax.device_get(fn(model, Inputs(rows, self.params)))
        return out if m is None else take(out, slice(m))


@program
def _values(model: ScipyModel, inputs: Inputs) -> Any:
    free = inputs.start[jnp.array(model.free, int)]
    return model(inputs, free)


@program
def _slopes(model: ScipyModel, inputs: Inputs) -> tuple[Any, Any, Any]:
    free = inputs.start[jnp.array(model.free, int)]

    def flat(p, inputs):
        return ravel_pytree(model(inputs, p))[0]

    value = model(inputs, free)
    traced: Any = eqx.filter_closure_convert(flat, free, inputs)
    size = traced.out_struct.size

    def fn(p):
        return traced(p, inputs)

    f, jt = columns(fn, free, mode_of(traced, free, inputs, size, "forward"))
    jt = jt if isinstance(jt, jax.Array) else jnp.stack(jt)
    norms = jnp.sqrt(jnp.sum(jnp.where(jnp.isfinite(jt), jt, 0) ** 2, axis=1))
    scale = lengths(0.5 * jnp.sum(jnp.where(jnp.isfinite(f), f, 0) ** 2), norms)
    better = repaired(fn, free, f, jt, scale, None)
    leaves, structure = jax.tree.flatten(value)

    def cut(columns):
        parts = jnp.split(columns, np.cumsum([a.size for a in leaves])[:-1])
        shaped = [
            part.reshape(*a.shape, free.size)
            for part, a in zip(parts, leaves, strict=True)
        ]
        return structure.unflatten(shaped)

    return value, cut(better.T), cut((~jnp.isfinite(jt) & jnp.isfinite(better)).T)
