"""NumPy's masked arrays as numbers and booleans that tell which of them count.

What is under a mask is no datum. Its number becomes NaN, so that whoever overlooks the
mask hears of it; a row of x counts where all of its entries do. `mask=` of the doors
says the same of y in the kernel's convention: True counts.
"""

from typing import Any

import jax
import numpy as np

from .checks import broadcast_like


def is_masked(tree: Any) -> bool:
    """Whether there is a masked array in a tree."""
    return any(isinstance(leaf, np.ma.MaskedArray) for leaf in jax.tree.leaves(tree))


def unmasked(tree: Any) -> tuple[Any, Any]:
    """The arrays of a tree without their masks, and which of their entries count.

    The second is like the tree, or None where no array has a mask.
    """
    if not is_masked(tree):
        return tree, None
    return jax.tree.map(_numbers, tree), jax.tree.map(_counts, tree)


def _numbers(leaf: Any) -> Any:
    if not isinstance(leaf, np.ma.MaskedArray):
        return leaf
    hidden = np.ma.getmaskarray(leaf)
    if not hidden.any() or leaf.dtype.kind not in "buif":
        return leaf.data
    numbers = np.array(leaf.data, np.result_type(leaf.dtype, np.float16))
    numbers[hidden] = np.nan
    return numbers


def _counts(leaf: Any) -> Any:
    if isinstance(leaf, np.ma.MaskedArray):
        return ~np.ma.getmaskarray(leaf)
    return np.ones(np.shape(leaf), bool)


def both(a: Any, b: Any) -> Any:
    """The mask of what counts by two masks; None stands for everything."""
    if a is None or b is None:
        return b if a is None else a
    return jax.tree.map(np.logical_and, a, b)


def read_mask(mask: Any, y: Any, name: str = "ydata") -> Any:
    """`mask`, a prefix of y, in its structure and shapes, or None.

    **Raises:** `TypeError` where it is not boolean, `ValueError` where it does not fit.
    """
    if mask is None:
        return None
    if isinstance(y, np.ndarray):
        mask = np.asarray(mask)
    for leaf in jax.tree.leaves(mask):
        if (kind := np.asarray(leaf).dtype) != np.bool_:
            raise TypeError(
                f"`mask` must be boolean, got {kind}: True for what counts."
            )
    return jax.tree.map(np.asarray, broadcast_like(mask, y, "mask", name))


def rows_of_x(counts: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Which data of a y of such a shape have an x that counts.

    `counts` is of x with rows first or last, or in the shape of y, leaf by leaf.

    **Raises:** `ValueError` where it cannot be told whose x is under a mask.
    """
    found = np.ones(shape, bool)
    for path, leaf in jax.tree_util.tree_leaves_with_path(counts):
        if leaf.all():
            continue
        if leaf.shape == shape:
            found &= leaf
        elif shape and shape[0] in (leaf.shape[0], leaf.shape[-1]):
            rows = leaf if len(leaf) == shape[0] else np.moveaxis(leaf, -1, 0)
            row = rows.reshape(len(rows), -1).all(axis=1)
            found &= row.reshape(-1, *[1] * (len(shape) - 1))
        else:
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` of shape {leaf.shape} is masked "
                f"in part, and the data have shape {shape}: which of them have no x? "
                "Give `mask` instead."
            )
    return found
