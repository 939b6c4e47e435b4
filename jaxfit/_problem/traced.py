"""The user's residual and Jacobian as traced functions of a vector x.

They are traced once, and cost, linearisation and derivatives all evaluate the one
program; and once more for a block of rows, where that is proven to be the same.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._basics.types import Vector
from .._functions.constants import forget_other_precision
from .._functions.expected import expected
from .._functions.rowwise import rows_mixed_by
from .._functions.two_lengths import same_but_for_length
from .curve import Curve
from .evaluation import Evaluation
from .per_row import are_rows, cut_rows
from .problem import Problem


def traced(problem: Problem, x: Vector, how: Evaluation, rows: Any) -> tuple[Any, Any]:
    """The residual of some rows as a traced function, and the user's Jacobian, or None.

    **Raises:** `ValueError` where the residual is empty, `TypeError` where not real.
    """
    _, unravel = ravel_pytree(problem.params)
    forget_other_precision(problem.residual)

    def residual(x, rows):
        if isinstance(problem.residual, Curve):
            r = problem.residual(unravel(x), rows)
        else:
            params = unravel(x)
            with expected("residual", "residual(params, args)", params, rows):
                r = problem.residual(params, rows)
        for leaf in jax.tree.leaves(r):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float):
                raise TypeError(
                    "`residual` must return arrays of residuals and nothing else, and "
                    f"returned {leaf!r} among them: what else it computes can be had "
                    "by calling it at the solution."
                )
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"the residual must be real, got {jnp.result_type(leaf)}: "
                    "return real and imaginary parts as two arrays."
                )
        return ravel_pytree(r)[0].astype(x.dtype)

    program: Any = eqx.filter_closure_convert(residual, x, rows)
    size = program.out_struct.size
    if size == 0:
        raise ValueError("the residual is empty (m = 0): there are no data to fit.")
    if how.jacobian is None:
        return program, None
    return program, _flat_jacobian(problem, unravel, how.jacobian, x, rows, size)


def why_not_rowwise(
    problem: Problem, x: Vector, how: Evaluation, programs: Any = None
) -> str | None:
    """None if a problem's rows are proven to be treated one by one, else the reason.

    Those of the residual and of a Jacobian that the user wrote. Shown by two traces:
    in one, no row meets another; in one of fewer rows the program is the same, so that
    their number is nowhere among the values. `programs` are the residual and the
    Jacobian where they have been traced already.
    """
    if programs is None:
        programs = traced(problem, x, how, problem.args)
    rows, size = problem.args, programs[0].out_struct.size
    of_rows = [False, *jax.tree.leaves(are_rows(rows, size))]
    for program in programs:
        reason = program and rows_mixed_by(program.jaxpr, of_rows)
        if reason is not None:
            return reason
    if size > 1:
        try:
            fewer = traced(problem, x, how, cut_rows(rows, size, 0, size - 1))
        except Exception as err:  # the model's own word: it takes no other length
            return f"for fewer rows it raises {type(err).__name__}: {err}"
        for program, other in zip(programs, fewer, strict=True):
            if program and not same_but_for_length(
                program.jaxpr, other.jaxpr, (size, size - 1)
            ):
                return (
                    "for fewer rows it is another program, which may use their number"
                )
    return None


def _flat_jacobian(problem: Problem, unravel, jacobian, x, rows, size):
    """The user's Jacobian as a traced function from x to an (m, n) matrix."""

    def matrix(x, rows):
        params = unravel(x)
        if isinstance(problem.residual, Curve):
            derivative = problem.residual.jacobian(jacobian, params, rows)
        else:
            derivative = jacobian(params, rows)
        leaves = jax.tree.leaves(params)
        blocks = jax.tree.leaves(derivative)
        if len(blocks) % len(leaves):
            raise ValueError(
                f"`jacobian` returned {len(blocks)} arrays for {len(leaves)} leaves of "
                "`params`: it must be structured like jax.jacobian(residual)."
            )
        for block, leaf in zip(
            blocks, leaves * (len(blocks) // len(leaves)), strict=True
        ):
            rest = block.ndim - leaf.ndim
            if rest < 0 or block.shape[rest:] != leaf.shape:
                raise ValueError(
                    f"`jacobian` must give a matrix of shape {(size, x.size)} in all, "
                    f"got an array of shape {block.shape} for parameters of shape "
                    f"{leaf.shape}: theirs come last."
                )
        columns = [
            jnp.concatenate(
                [
                    b.reshape(-1, p.size)
                    for b, p in zip(blocks[i : i + len(leaves)], leaves, strict=True)
                ],
                axis=1,
            )
            for i in range(0, len(blocks), len(leaves))
        ]
        j = jnp.concatenate(columns).astype(x.dtype)
        if j.shape != (size, x.size):
            raise ValueError(
                f"`jacobian` gives a matrix of shape {j.shape}, not {(size, x.size)}."
            )
        return j

    return eqx.filter_closure_convert(matrix, x, rows)
