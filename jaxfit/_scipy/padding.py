"""Lengths of data rounded up, so that few programs serve all lengths.

Rows beyond the data are copies of the last row and are masked: safe values, no NaN in
any derivative. Powers of two up to 8,192 (at most half is padding, of data that fit
the cache); beyond, eight steps from one power to the next (at most an eighth).

Rows added to x must change nothing in the value at the others. Two traces of the model
show it, at two lengths: the rows are treated one by one (`_functions.rowwise`), and
both traces are the same program, so that the length is nowhere among the values. Where
that is not shown the data are not padded.
"""

from typing import Any

import jax
import numpy as np

from .._functions.rowwise import rows_mixed_by
from .._functions.two_lengths import same_but_for_length
from .._programs.kept import Memory
from .model import Inputs


_SMALLEST = 64
_FINE = 8192


def bucket(m: int) -> int:
    """The padded length for m rows."""
    if m <= _SMALLEST:
        return _SMALLEST
    power = 1 << (m - 1).bit_length()
    if power <= _FINE:
        return power
    step = power // 16
    return -(-m // step) * step


def is_paddable(
    fn: Any, inputs: Inputs, params: Any, num_rows: int, ndim: int = 1
) -> bool:
    """Whether `fn(inputs, params)`, a model or its Jacobian, allows for more rows.

    Traced at the length of the data and at that of their bucket; remembered. The value
    must have `ndim` axes.
    """
    leaves, treedef = jax.tree.flatten((fn, inputs, params))
    shapes = tuple((np.shape(a), getattr(a, "dtype", type(a))) for a in leaves)
    key = treedef, shapes, num_rows, ndim, jax.config.read("jax_enable_x64")

    def proven() -> bool:
        # Data that fill their bucket may yet be predicted from at other lengths.
        lengths = num_rows, max(bucket(num_rows), num_rows + 1)
        reason, short = _traced(fn, inputs, params, num_rows, num_rows)
        # Another shape is wrong, and better refused at the length of the data.
        shapes = [v.aval.shape for v in short.outvars]
        result = reason is None and all(len(shape) == ndim for shape in shapes)
        if result:
            try:
                reason, long = _traced(fn, inputs, params, *lengths)
            except Exception:  # the model's own word: it takes no other length
                return False
            result = reason is None and same_but_for_length(short, long, lengths)
        return result

    return _PADDABLE.get(key, proven)


_PADDABLE = Memory()


def _traced(fn: Any, inputs: Inputs, params: Any, num_rows: int, length: int):
    """Why `fn` is not row-wise, or None, and its jaxpr at `length` rows."""
    is_rows, shapes = [], []
    leaves, treedef = jax.tree.flatten(inputs.x)
    for leaf in leaves:
        shape = np.shape(leaf)
        is_rows.append(len(shape) > 0 and shape[0] == num_rows)
        shape = (length, *shape[1:]) if is_rows[-1] else shape
        shapes.append(jax.ShapeDtypeStruct(shape, np.asarray(leaf).dtype))
    x = jax.tree.unflatten(treedef, shapes)
    closed = jax.make_jaxpr(
        lambda x, start, p: jax.tree.leaves(fn(Inputs(x, start), p))
    )(x, inputs.start, params)
    return rows_mixed_by(closed.jaxpr, [*is_rows, False, False]), closed.jaxpr
