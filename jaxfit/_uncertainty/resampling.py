"""Problems with resampled data, made of a given problem.

Whatever a residual is made of, r + shift is that of data which differ by -shift in its
units, and a choice among its rows that of data drawn anew. So no model and no data are
looked into: a problem is wrapped.

Replicate i draws by `fold_in(key, i)`, so it is the same whichever lane or device it
comes to lie on.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._basics.trees import on_some
from .._basics.types import Scalar, Vector
from .._functions.callables import Function
from .._problem.curve import Curve
from .._problem.per_row import are_rows
from .._problem.problem import Problem
from .._solve.solver import TRF
from .weighted_rows import Rows


Resampling = Literal["residual", "pairs", "parametric", "wild"]


class Shifted(eqx.Module):
    """The residual plus a vector, which is the second part of its data."""

    residual: Any

    def __call__(self, params: PyTree, data: tuple[Any, Array]) -> Array:
        args, shift = data
        return ravel_pytree(self.residual(params, args))[0] + shift


class Picked(eqx.Module):
    """Rows of the residual by their numbers, which are the second part of its data."""

    residual: Any

    def __call__(self, params: PyTree, data: tuple[Any, Array]) -> Array:
        args, which = data
        return ravel_pytree(self.residual(params, args))[0][which]


class WrappedJacobian(eqx.Module):
    """A user's Jacobian for data that are wrapped in a pair; rows are not picked."""

    jacobian: Function
    residual: Any

    def __call__(self, params: PyTree, data: tuple[Any, Array]) -> Any:
        if isinstance(self.residual, Curve):
            return self.residual.jacobian(self.jacobian, params, data[0])
        return self.jacobian(params, data[0])


class PickedJacobian(eqx.Module):
    """The same with rows picked."""

    whole: WrappedJacobian

    def __call__(self, params: PyTree, data: tuple[Any, Array]) -> Any:
        blocks = self.whole(params, data)
        sizes = [jnp.ndim(leaf) for leaf in jax.tree.leaves(params)]
        leaves, structure = jax.tree.flatten(blocks)
        if len(leaves) != len(sizes):
            raise ValueError(
                "pairs of a residual that is a PyTree need a `jacobian` by automatic "
                "differentiation."
            )

        def pick(block, ndim):
            tail = block.shape[block.ndim - ndim :]
            return block.reshape(-1, *tail)[data[1]]

        return structure.unflatten(
            [pick(*pair) for pair in zip(leaves, sizes, strict=True)]
        )


def shifted(problem: Problem, shift: Array) -> Problem:
    """The problem whose residual is `shift` more, where it counts."""
    return _like(problem, Shifted(problem.residual), (problem.args, shift))


def picked(
    problem: Problem, which: Int[Array, " m"], counts: Bool[Array, " m"], rowwise: bool
) -> Problem:
    """The problem of some of the rows, again and again; `counts` tells which count.

    Of a row-wise problem the data themselves are taken, which is cheaper.
    """
    if not rowwise:
        other = _like(problem, Picked(problem.residual), (problem.args, which))
        return _masked(other, counts)

    of_rows = are_rows(problem.args, which.size)
    args = on_some(lambda leaf: leaf[which], problem.args, of_rows)
    other = eqx.tree_at(lambda p: p.args, problem, args)
    return _masked(other, counts)


def starting_from(problem: Problem, params: PyTree) -> Problem:
    """The problem with another start."""
    return eqx.tree_at(lambda p: p.params, problem, params)


def solver_for(problem: Problem, solver: TRF, kind: Resampling, rowwise: bool) -> TRF:
    """The solver with its Jacobian, if the user wrote it, made to fit wrapped data."""
    if solver.jacobian is None or (kind == "pairs" and rowwise):
        return solver
    wrapped: Any = WrappedJacobian(solver.jacobian, problem.residual)
    if kind == "pairs":
        wrapped = PickedJacobian(wrapped)
    return solver.replaced(jacobian=Function(wrapped, "jacobian"))


def _like(problem: Problem, residual: Any, args: Any) -> Problem:
    mask = None if problem.mask is None else ravel_pytree(problem.mask)[0]
    return eqx.tree_at(
        lambda p: (p.residual, p.args, p.mask),
        problem,
        (Function(residual, "residual"), args, mask),
        is_leaf=lambda leaf: leaf is None,
    )


def _masked(problem: Problem, counts: Array) -> Problem:
    if problem.mask is None:
        return problem
    flat = counts
    _, unravel = ravel_pytree(problem.mask)
    return eqx.tree_at(lambda p: p.mask, problem, unravel(flat))


def drawn_shift(
    kind: Resampling,
    key: Array,
    rows: Rows,
    order: Int[Array, " m"],
    hat: Float[Array, " m"],
    variance: Scalar,
) -> Vector:
    """What to add to the residual for one replicate.

    At the solution the residual of the replicate is then

        residual     r_i / sqrt(1 - h_i), centred, drawn with replacement
        wild         +-r_i / (1 - h_i), with random signs (Liu 1988)
        parametric   normal, with the variance of the noise

    with h the leverage, which fits have taken out of their residuals.
    """
    r, used = rows.residual, rows.used
    if kind == "parametric":
        drawn = jnp.sqrt(variance) * jax.random.normal(key, r.shape, r.dtype)
    elif kind == "wild":
        drawn = jax.random.rademacher(key, r.shape, r.dtype) * r / (1 - hat)
    else:
        whole = r / jnp.sqrt(1 - hat)
        count = jnp.maximum(jnp.sum(used), 1)
        centred = whole - jnp.sum(jnp.where(used, whole, 0)) / count
        drawn = centred[drawn_rows(key, used, order)]
    return jnp.where(used, drawn - r, 0)


def drawn_rows(
    key: Array, used: Bool[Array, " m"], order: Int[Array, " m"]
) -> Int[Array, " m"]:
    """m numbers of rows that are used, which are the first in `order`, at random."""
    count = jnp.maximum(jnp.sum(used), 1)
    return order[jax.random.randint(key, used.shape, 0, count)]
