"""The Jacobian at a solution as SciPy's LinearOperator: J v and J'u, J never formed."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from .._basics.precision import precision
from .._basics.types import Vector
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.solution import Solution


def jacobian_operator(problem: Problem, solution: Solution) -> Any:
    """The Jacobian, never formed, as products with it and with its transpose."""
    from scipy.sparse.linalg import LinearOperator

    x = solution.params
    dtype = np.dtype(x.dtype)

    def product(fn, v):
        with precision(dtype):
            return np.asarray(fn(problem, x, np.asarray(v, dtype).ravel()))

    products = {
        "matvec": lambda v: product(_matvec, v),
        "rmatvec": lambda v: product(_rmatvec, v),
    }
    return LinearOperator((int(solution.num_rows), x.size), dtype=dtype, **products)  # type: ignore


def _scaled(problem: Problem, x: Vector):
    def residual(x):
        return problem.residual(x, problem.args)

    _, _, scale = problem.loss.robustify(residual(x))
    return residual, 1 if scale is None else scale


@program
def _matvec(problem: Problem, x: Vector, v: Array):
    residual, scale = _scaled(problem, x)
    return scale * jax.jvp(residual, (x,), (v,))[1]


@program
def _rmatvec(problem: Problem, x: Vector, v: Array):
    residual, scale = _scaled(problem, x)
    return jax.vjp(residual, x)[1](scale * v)[0]
