"""The traced part of a batch of curve fits: a slice of data to arrays of results."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from .._batch.solve_batch import solve_stack
from .._batch.stack import Stack
from .._curve.program import Given, problem_of
from .._programs.program import program
from .._programs.slices import ON_A_THREAD
from .._scipy.losses import NamedLoss, ScipyLoss
from .._scipy.model import Inputs, ScipyModel
from .._scipy.pcov import dof_of, scale_of
from .._scipy.solver import with_jacobian
from .._solve.covariance import scaled
from .._solve.solver import TRF


class Choices(NamedTuple):
    """What a program is compiled for besides shapes."""

    per_fit: tuple[bool, ...]  # which leaves of what is given
    x_is_finite: bool
    covariance: bool
    absolute_sigma: bool
    lanes: int | None
    mesh: Mesh | None


class BatchOutcome(NamedTuple):
    """The results of a slice of p fits, all n parameters of the model."""

    popt: Array  # (p, n)
    pcov: Array | None  # (p, n, n)
    perr: Array | None  # (p, n)
    undetermined: Array | None  # (p, n)
    cost: Array
    optimality: Array
    counts: Array  # (p, 4)
    active_mask: Array  # (p, n)
    num_data: Array
    dof: Array
    differenced: Array
    lane_efficiency: Array  # one number


def fit_slice(
    model: ScipyModel,
    jacobian: Callable | None,
    solver: TRF,
    loss: NamedLoss | ScipyLoss,
    given: Given,
    count: Any,
    choices: Choices,
) -> BatchOutcome:
    """The first `count` fits of a slice."""

    def make(given: Given):
        problem = problem_of(model, loss, given)
        if choices.x_is_finite:
            # Nothing of x was replaced under the mask: it stays shared.
            inputs = Inputs(given.x, jnp.asarray(given.start))
            problem = eqx.tree_at(lambda p: p.args.x, problem, inputs)
        return problem

    stack = Stack.by(make, given, list(choices.per_fit))
    solver = with_jacobian(solver, jacobian)
    solution = solve_stack(
        stack,
        solver,
        count,
        choices.lanes,
        choices.mesh,
        "fixed" if choices.covariance else None,
    )
    p, n = stack.size, given.start.shape[-1]
    popt, active = jnp.asarray(solution.params), jnp.asarray(solution.active_mask)
    pcov = perr = lost = None
    if choices.covariance:
        scale = scale_of(solution.cost, dof_of(solution), choices.absolute_sigma)
        scale = jnp.broadcast_to(scale, solution.cost.shape)[:, None]
        pcov = scaled(solution.covariance(scaled=False), scale[:, None])
        perr = scaled(solution.perr(scaled=False), jnp.sqrt(scale))
        lost = solution.lost
    if len(model.free) < n:
        # A parameter that is held counts as at its lower bound, as one with equal
        # bounds does.
        free = jnp.array(model.free)
        popt = jnp.broadcast_to(given.start, (p, n)).at[:, free].set(popt)
        active = jnp.full((p, n), -1, active.dtype).at[:, free].set(active)
        if pcov is not None and perr is not None and lost is not None:
            nothing = jnp.zeros((p, n, n), pcov.dtype)
            pcov = nothing.at[:, free[:, None], free].set(pcov)
            perr = nothing[:, 0].at[:, free].set(perr)
            lost = jnp.zeros((p, n), bool).at[:, free].set(lost)
    fitted = (solution.status >= 0)[:, None]
    return BatchOutcome(
        popt=jnp.where(fitted, popt, jnp.nan),
        pcov=pcov,
        perr=perr,
        undetermined=None if lost is None else lost & fitted,
        cost=solution.cost,
        optimality=solution.optimality,
        counts=solution.counts,
        active_mask=active.astype(jnp.int8),
        num_data=solution.num_rows,
        dof=jnp.maximum(solution.dof, 0),
        differenced=solution.differenced & (solution.status >= 0),
        lane_efficiency=solution.lane_efficiency,
    )


on_a_thread = program(fit_slice, static=(6,), compiler_options=ON_A_THREAD)
on_devices = program(fit_slice, static=(6,))
