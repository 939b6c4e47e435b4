"""The derivative of a batch of fits: that of each by the implicit function theorem.

What lanes came to is taken as it is, and each problem is asked at its solution how that
moves with its data (`_implicit.settled`), so many problems at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._problem.objective import Objective
from .._solve.derivative import settled
from .._solve.noise import squares_of
from .._solve.solver import TRF
from .solution import BatchSolution
from .stack import Stack


# Problems whose derivatives are found together.
_TOGETHER = 256


def solutions(
    stack: Stack, found: BatchSolution, solver: TRF
) -> tuple[Any, Any, Any | None, Any | None]:
    """Parameters, cost, half of (J'J)^-1 and `squares`, as functions of the problems.

    Their values are those found; of a fit that failed the derivatives are 0.
    """

    def one(problem, params, ok, half):
        x, unravel = ravel_pytree(params)
        objective = Objective.of(problem, x, solver, None, _ALL)
        x, cost, product = settled(objective, problem.bounds, x, ok, solver)
        if half is not None:
            half = _moved(half, product, ok)
        squares = None
        if found.squares is not None:
            squares = squares_of(problem, objective, x)
        return unravel(x), cost, half, squares

    return _each(one, stack, found.params, found.status >= 0, found.half)


def squares_of_each(stack: Stack, params: PyTree, solver: TRF) -> Array | None:
    """What the noise of each fit with a robust loss is estimated from, (p,)."""
    if stack.one.loss.rho is None:
        return None

    def one(problem, params):
        x, _ = ravel_pytree(params)
        return squares_of(problem, Objective.of(problem, x, solver, None, _ALL), x)

    return _each(one, stack, params)


def _each(fn: Any, stack: Stack, *others: Any) -> Any:
    """`fn` of each problem and what of the others belongs to it."""
    leaves = stack.leaves
    own = [leaf for leaf, batched in zip(leaves, stack.batched, strict=True) if batched]

    def one(parts):
        mine, others = iter(parts[0]), parts[1]
        problem = jax.tree.unflatten(
            jax.tree.structure(stack.problems),
            [
                next(mine) if batched else leaf
                for leaf, batched in zip(leaves, stack.batched, strict=True)
            ],
        )
        return fn(problem, *others)

    parts = own, others
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
