"""Standard deviations and covariances of data, checked by value on the host.

An infinite deviation is a weight of 0: the datum is there, and says nothing.
"""

import math
from typing import Any

import jax
import numpy as np


def check_sigma(sigma: Any, y: Any, mask: Any) -> Any:
    """One number, or deviations like y, or for M data an (M, M) covariance.

    What `mask` leaves out is not looked at.

    **Raises:** `ValueError` where a number that counts is not as it must be.
    """
    if not isinstance(y, np.ndarray):
        leaves = jax.tree.leaves(sigma)
        if len(leaves) == 1 and leaves[0].size == 1:
            sigma = jax.tree.map(lambda a: np.full_like(a, leaves[0].item()), y)
        if jax.tree.structure(sigma) != jax.tree.structure(y):
            raise ValueError(
                f"`sigma` has structure {jax.tree.structure(sigma)} and `ydata` "
                f"{jax.tree.structure(y)}: give one number, or an array for each."
            )
        masks = jax.tree.map(lambda a: True, y) if mask is None else mask
        jax.tree.map(_check_shaped, sigma, y, masks)
        return sigma
    if sigma.ndim == 2 and y.ndim == 1 and sigma.shape == y.shape * 2:
        return check_covariance(sigma, mask)
    _check_shaped(sigma, y, True if mask is None else mask)
    return sigma.reshape(()) if sigma.size == 1 else sigma


def _check_shaped(sigma: np.ndarray, y: np.ndarray, used) -> None:
    if sigma.size != 1 and sigma.shape != y.shape:
        raise ValueError(
            f"`sigma` has incorrect shape. It has {sigma.shape} and `ydata` {y.shape}: "
            "give one number, one for each datum, or for M data an (M, M) covariance "
            "matrix."
        )
    used = used if sigma.size != 1 else True
    check_deviations(sigma if sigma.size != 1 else sigma.reshape(()), used)


def check_deviations(sigma: np.ndarray, used: Any, of: str = "`ydata`") -> None:
    """Refuse deviations of data that count unless positive; one for all be finite too.

    **Raises:** `ValueError` with the first bad one and its index.
    """
    bad = ~((sigma > 0) & ((sigma.ndim > 0) | np.isfinite(sigma))) & used
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        value = np.broadcast_to(sigma, bad.shape)[index]
        where = f"index {index[0]}" if len(index) == 1 else index
        raise ValueError(
            f"`sigma` must be positive and finite, got {value}"
            + (f" at {where}" if sigma.ndim else "")
            + f": standard deviations of {of}, in its units, or inf for a datum of "
            "weight 0. Or mask such a datum."
        )


def check_covariance(sigma: np.ndarray, mask) -> np.ndarray:
    """`sigma` if it is a covariance of the data used, else a `ValueError`."""
    used = sigma if mask is None else sigma[np.ix_(mask, mask)]
    if not np.isfinite(used).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(used))[0])
        raise ValueError(f"`sigma` must be finite, got {used[i, j]} at index {(i, j)}.")
    scale = math.sqrt(float(np.finfo(sigma.dtype).eps)) * np.abs(used.diagonal())
    skew = np.abs(used - used.T) > np.sqrt(np.outer(scale, scale))
    if skew.any():
        i, j = (int(k) for k in np.argwhere(skew)[0])
        raise ValueError(
            f"`sigma` must be symmetric, got {used[i, j]} at {(i, j)} and {used[j, i]} "
            f"at {(j, i)}: it is the covariance matrix of `ydata`."
        )
    refusal = ValueError(
        "`sigma` must be positive definite. The smallest eigenvalue of this covariance "
        f"matrix is {np.linalg.eigvalsh(used)[0]:.3g}."
    )
    try:
        lower = np.linalg.cholesky(used)
    except np.linalg.LinAlgError as err:
        raise refusal from err
    # What is left of a variance once the data before it are known: rounding, if less.
    left = lower.diagonal() ** 2 / used.diagonal()
    if left.min() < len(used) * np.finfo(sigma.dtype).eps:
        raise refusal
    return sigma
