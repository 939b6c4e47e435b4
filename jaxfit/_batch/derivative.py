"""The derivative of a batch of fits: that of each by the implicit function theorem.

What lanes came to is taken as it is, and each problem is asked at its solution how that
moves with its data (`_implicit.settled`), so many problems at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._problem.objective import Objective
from .._solve.derivative import settled
from .._solve.solver import TRF
from .solution import BatchSolution
from .stack import Stack


# Problems whose derivatives are found together.
_TOGETHER = 256


def solutions(
    stack: Stack, found: BatchSolution, solver: TRF
) -> tuple[Any, Any, Any | None]:
    """Parameters, cost and half of (J'J)^-1 of all, as functions of the problems.

    Their values are those found; of a fit that failed the derivatives are 0.
    """
    leaves = stack.leaves
    own = [leaf for leaf, batched in zip(leaves, stack.batched, strict=True) if batched]

    def one(parts):
        own, params, ok, half = parts
        mine = iter(own)
        problem = jax.tree.unflatten(
            jax.tree.structure(stack.problems),
            [
                next(mine) if batched else leaf
                for leaf, batched in zip(leaves, stack.batched, strict=True)
            ],
        )
        x, unravel = ravel_pytree(params)
        objective = Objective.of(problem, x, solver, None, _ALL)
        x, cost, product = settled(objective, problem.bounds, x, ok, solver)
        if half is not None:
            half = _moved(half, product, ok)
        return unravel(x), cost, half

    ok = found.status >= 0
    parts = own, found.params, ok, found.half
    return jax.lax.map(one, parts, batch_size=min(_TOGETHER, stack.size))


_ALL = np.iinfo(np.int64).max


def _moved(half, product, ok):
    """The lower half of C = (J'J)^-1 with the derivative dC = -C d(J'J) C."""
    n = len(product)
    i, j = np.tril_indices(n)
    where = np.zeros((n, n), int)
    where[i, j] = where[j, i] = np.arange(len(i))
    c = jax.lax.stop_gradient(jnp.where(ok, half, 0)[where])
    change = c @ (product - jax.lax.stop_gradient(product)) @ c
    return half - change[i, j]
