"""A second opinion on a fit without a certificate: exact derivatives, limits, kinks.

The certificate knows the Gauss-Newton model alone. At a minimum with a residual where J
is singular that model shows nothing: its steps stay long, and the curvature is all in
the second derivatives of the residual. The exact Hessian H of the cost shows such a
minimum where, on the parameters that no bound holds,

- H is positive definite beyond its rounding,
- the Newton decrement g'H^-1 g is at most that of the certificate's level,
- and Newton's step p = -H^-1 g leads to a point from which the next one is much
  shorter, as it is beside a minimum. In a valley that falls to infinity, as 1/x or
  exp(-x), the steps do not get shorter.

Such a valley may have come to its limit, where no parameter can lower the cost by more
than that level as it changes by its own size or by |r| / |J_i|, whichever is longer.
Else the fit may stand on a kink (`kink`). This is asked on the host, of single fits
that have ended without a certificate: no other fit pays for it.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._basics.precision import precision
from .._basics.status import DOUBTFUL, Status
from .._basics.types import Matrix, Vector
from .._problem.derivatives import forbids_forward
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.sharded import Spread, objective_of
from .._programs.fetched import Timing
from .._programs.primitives import calls_host
from .._programs.program import program
from .._trf.certificate import Visible
from .kink import is_kink
from .noise import variance_of
from .solution import Solution
from .solver import TRF


# A Hessian of more parameters takes long to compile and to make.
_MOST = 100
# The next Newton step is at most so much of the one before, or no step at all.
_SHORTER, _NO_STEP = 0.25, 1e-6
# A standard error of so many times the size of a parameter: it runs off.
_FAR = 10.0


def second_opinion(problem: Problem, solver: TRF, solution: Solution) -> Status:
    """The status of a single fit, after a closer look if it has no certificate.

    HESSIAN where the exact Hessian shows a minimum, AT_A_LIMIT where a fit stalled in a
    valley to infinity that falls no more, AT_A_KINK where it stalled and the residual
    has a kink, else the status that it had. Matrix-free fits and those of
    more than 100 parameters are not looked at.
    """
    status = Status(int(np.asarray(solution.counts)[0]))
    lin = solution.linearisation
    if status not in DOUBTFUL or lin is None or solution.num_params > _MOST:
        return status
    if is_minimum(problem, solver, solution):
        return Status.HESSIAN
    if status != Status.STALLED:
        return status
    if is_limit(problem, solver, solution):
        return Status.AT_A_LIMIT
    x = jnp.asarray(ravel_pytree(solution.params)[0])
    return Status.AT_A_KINK if bool(is_kink(problem, solver, x)) else status


class Fitted(NamedTuple):
    """What the program of a door gave.

    `solved()` makes the solution; `outcome` is what of it a result is made of, its
    `counts` among it; `rows` are residuals and Jacobian, where they are asked for.
    """

    solved: Callable[[], Solution]
    outcome: Any
    timing: Timing
    rows: Any = None

    @property
    def solution(self) -> Solution:
        """The solution in JAX's arrays, whatever its precision."""
        solution = self.solved()
        with precision(np.dtype(solution.cost.dtype)):
            return jax.tree.map(jnp.asarray, solution)


def reviewed(
    run: Callable[[], Fitted], again: Callable[[], tuple[Problem, TRF]]
) -> Fitted:
    """A fit with the second opinion on it, where it ends without a certificate.

    `run()` makes the fit, `again()` its problem and solver once more.
    """
    done = run()
    if done.outcome.counts[0] not in DOUBTFUL:
        return done
    begin = time.perf_counter()
    solution = done.solution
    status = second_opinion(*again(), solution)
    solution = with_counts(solution, status=status)
    outcome = done.outcome._replace(counts=np.array(solution.counts))
    spent = done.timing.run_time + time.perf_counter() - begin
    timing = done.timing._replace(run_time=spent)
    return done._replace(solved=lambda: solution, outcome=outcome, timing=timing)


def with_counts(solution: Solution, **counts: int) -> Solution:
    """The same solution with other counts, given by name."""
    values = np.array(solution.counts)
    for i, name in enumerate(("status", "nfev", "njev", "num_steps")):
        values[i] = counts.get(name, values[i])
    return dataclasses.replace(solution, counts=jnp.asarray(values))


def is_minimum(problem: Problem, solver: TRF, solution: Solution) -> bool:
    """Whether exact second derivatives show that the solution is a minimum.

    False where there are none: of a function on the host, or of one with a derivative
    of its own that has no other.
    """
    x = np.asarray(ravel_pytree(solution.params)[0])
    first = _derivatives_at(problem, x)
    if first is None:
        return False
    free = ~_held(problem, solution, x, *first)
    here = _newton(x, free, *first)
    if here is None or here.decrement > _largest(solver, solution, free):
        return False
    there = x + here.step
    if problem.bounds is not None:
        lower, upper = map(np.asarray, (problem.lower, problem.upper))
        if (free & ((there <= lower) | (there >= upper))).any():
            return False
    if (np.abs(here.step) <= _NO_STEP * np.abs(x))[free].all():
        return True
    second = _derivatives_at(problem, there)
    after = None if second is None else _newton(there, free, *second)
    if after is None:
        return False
    lengths = [float(np.linalg.norm(p.step * here.size)) for p in (here, after)]
    return lengths[1] <= _SHORTER * lengths[0]


def is_limit(problem: Problem, solver: TRF, solution: Solution) -> bool:
    """Whether parameters run off that can lower the cost visibly no more.

    By the gradient and its differences: what the quadratic model of the cost may gain,
    if each of its principal directions changes by at most its own size; and one of them
    has a standard error of ten times that.
    """
    x = np.asarray(ravel_pytree(solution.params)[0])
    norms = np.asarray(solution.linearisation.column_norms)
    if not (norms > 0).all():
        return False
    size = np.maximum(np.abs(x), np.sqrt(2 * float(solution.cost)) / norms)
    eps = float(np.finfo(x.dtype).eps)
    apart = eps ** (1 / 3) * size
    moves = np.concatenate([np.zeros((1, x.size)), np.diag(apart), -np.diag(apart)])
    points = jnp.asarray(x + moves.astype(x.dtype))
    grad, *beside = np.asarray(_gradients(problem, solver, points))
    ahead, behind = np.split(np.array(beside), 2)
    h = (ahead - behind) / (2 * apart[:, None])
    if not np.isfinite(h).all():
        return False
    free = ~_held(problem, solution, x, grad, h)
    slopes, curved = (grad * size)[free], (h * np.outer(size, size))[np.ix_(free, free)]
    # What is not symmetric of the differences tells how exact they are.
    noise = np.linalg.norm(curved - curved.T)
    lam, basis = np.linalg.eigh((curved + curved.T) / 2)
    lam = np.where(np.abs(lam) > noise, lam, 0)
    slopes = np.abs(slopes @ basis)
    inside = slopes <= lam
    within = slopes**2 / np.where(inside & (lam > 0), 2 * lam, 1)
    gain = np.where(inside, within, slopes - lam / 2)
    flat = free.any() and 2 * gain.sum() <= _largest(solver, solution, free)
    dof = max(int(solution.num_rows) - lam.size, 1)
    variance = variance_of(2 * float(solution.cost), dof)
    return bool(flat and (_FAR**2 * lam < variance).any())


def _held(
    problem: Problem, solution: Solution, x: np.ndarray, grad: np.ndarray, h: np.ndarray
) -> np.ndarray:
    """Parameters that are fixed, or that a Newton step alone would take to a bound that
    is active."""
    if problem.bounds is None:
        return np.zeros(x.size, bool)
    lower, upper = map(np.asarray, (problem.lower, problem.upper))
    active = np.asarray(ravel_pytree(solution.active_mask)[0])
    room = np.where(active < 0, x - lower, np.where(active > 0, upper - x, 0))
    beyond = (active * grad < 0) & (room * np.diag(h) < np.abs(grad))
    return (lower == upper) | beyond


def _largest(solver: TRF, solution: Solution, free: np.ndarray) -> float:
    """The Newton decrement at which the parameters are near enough to the minimum.

    As in the certificate: the offset of each within so much of its standard error, or
    rounding; without degrees of freedom so much of the residual.
    """
    p, m = int(free.sum()), int(solution.num_rows)
    variance = 2 * float(solution.cost)
    if m > p:
        variance *= p / (m - p)
    x = jnp.asarray(ravel_pytree(solution.params)[0])
    level = float(jnp.asarray(solver.offset(x.dtype)))
    norms = solution.linearisation.column_norms
    visible = Visible.of(x, norms, norms, jnp.sqrt(2 * solution.cost), 0)
    return max(level**2 * variance, float(visible.rounding) ** 2)


class _Newton(NamedTuple):
    """Newton's step from a point, 0 for parameters that are held."""

    step: np.ndarray
    size: np.ndarray  # the curvature along each parameter, as a length of columns
    decrement: float


def _newton(
    x: np.ndarray, free: np.ndarray, grad: np.ndarray, h: np.ndarray
) -> _Newton | None:
    """The step where the Hessian is positive definite, else None."""
    of_free = h[np.ix_(free, free)]
    curvature = np.diag(of_free)
    if not (free.any() and (curvature > 0).all()):
        return None
    size = np.sqrt(curvature)
    lam, basis = np.linalg.eigh(of_free / np.outer(size, size))
    if lam[0] <= 64 * len(x) * np.finfo(h.dtype).eps * lam[-1]:
        return None
    step, sizes = np.zeros_like(x), np.zeros_like(x)
    step[free] = -(basis @ ((basis.T @ (grad[free] / size)) / lam)) / size
    sizes[free] = size
    return _Newton(step, sizes, float(-grad @ step))


def _derivatives_at(
    problem: Problem, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The gradient and the Hessian where they are finite, or None."""
    try:
        grad, h = map(np.asarray, _derivatives(problem, _GRAM, jnp.asarray(x)))
    except TypeError as err:
        if not forbids_forward(err):
            raise
        return None
    return (grad, h) if np.isfinite(grad).all() and np.isfinite(h).all() else None


_GRAM = TRF(linear_solver="gram")


@program
@on_auto_axes
def _derivatives(
    problem: Problem, solver: TRF, x: Vector, axes: tuple[str, ...] | None
) -> tuple[Vector, Matrix]:
    """The gradient and the Hessian of the cost at x; NaN for a function on the host."""
    objective = objective_of(problem, x, solver, axes)
    whole = objective.share if isinstance(objective, Spread) else objective
    program: Any = whole.residual
    if calls_host(program.jaxpr):
        return jnp.full_like(x, jnp.nan), jnp.full((x.size, x.size), jnp.nan, x.dtype)
    gradient = jax.grad(lambda x: objective.cost(x))
    return gradient(x), jax.jacfwd(gradient)(x)


@program
@on_auto_axes
def _gradients(
    problem: Problem,
    solver: TRF,
    points: Float[Array, "k n"],
    axes: tuple[str, ...] | None,
) -> Float[Array, "k n"]:
    """The gradient of the cost at some points."""
    objective = objective_of(problem, points[0], solver, axes)
    return jax.lax.map(lambda x: objective.linearise(x).grad, points)
