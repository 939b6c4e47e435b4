"""The derivative of a fit, by the implicit function theorem.

A solution x satisfies F(x, theta) = v(x, g) * g = 0, with g the gradient of the cost
and v the Coleman-Li vector, for all data theta: the residual's closure, args, weights,
loss scale and bounds. Therefore

    dx = -(dF/dx)^-1 dF/dtheta dtheta,      dF/dx = diag(v) H + diag(dv g)

In the hat variables of `_trf` the matrix is symmetric and, at a minimum, positive
semidefinite: S = diag(d) H diag(d) + diag(c). An active bound makes its row
(ub - x) or (x - lb) times g, so x follows the bound; a fixed parameter follows it
by definition. Directions in which S has no curvature get derivative 0, and so
does a fit that failed (`status` < 0): defined, and harmless to its neighbours.

The number of passes over the data does not depend on how many steps the fit took, and
the rule is itself differentiable, so second derivatives work.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._bounds import Bounds
from ._matrix_free import conjugate_gradients
from ._objective import Objective
from ._spread import Spread
from ._state import State
from ._subproblem import Spectral
from ._trf import TRF
from ._types import Matrix, Scalar, Vector
from ._varying import alike


@eqx.filter_custom_jvp
def minimise(
    objective: Objective | Spread, bounds: Bounds | None, x: Vector, solver: TRF
) -> State:
    """The final state of the fit; `state.x` has the derivative described above."""
    blank = objective.blank(x)
    return solver.minimise(
        objective.cost, objective.linearise, x, bounds, blank, objective.num_rows
    )


@minimise.def_jvp
def _minimise_jvp(primals, tangents):
    objective, bounds, start, solver = primals
    t_objective, t_bounds, _, _ = tangents
    state = minimise(objective, bounds, start, solver)
    x, ok = state.x, state.status >= 0
    # Masked on the way in as well: reverse mode runs backwards, and there this keeps
    # the NaN of a failed fit out of the cotangents that it shares with its neighbours.
    t_objective, t_bounds = jax.tree.map(
        lambda t: jnp.where(ok, t, jnp.zeros_like(t)), (t_objective, t_bounds)
    )
    norms = state.lin.column_norms
    t_x = _solution_tangent(objective, t_objective, bounds, t_bounds, x, norms, solver)
    t_x = jnp.where(ok, t_x, 0)

    def summary(x, objective):
        return objective.linearise(x).summary()

    _, t_lin = eqx.filter_jvp(summary, (x, objective), (t_x, t_objective))
    t_lin = jax.tree.map(lambda t: jnp.where(ok, t, 0), t_lin)
    nothing = jax.tree.map(lambda _: None, state)
    t_state = eqx.tree_at(
        lambda s: (s.x, s.lin), nothing, (t_x, t_lin), is_leaf=lambda t: t is None
    )
    return state, t_state


@eqx.filter_custom_jvp
def settled(
    objective: Objective, bounds: Bounds | None, x: Vector, ok: Array, solver: TRF
) -> tuple[Vector, Scalar, Matrix]:
    """A solution found elsewhere, its cost and J'J, with the derivatives of a fit."""
    del bounds, ok, solver
    _, j = objective.rows_at(x)
    return x, objective.cost(x), j.T @ j


@settled.def_jvp
def _settled_jvp(primals, tangents):
    objective, bounds, x, ok, solver = primals
    t_objective, t_bounds, *_ = tangents
    t_objective, t_bounds = jax.tree.map(
        lambda t: jnp.where(ok, t, jnp.zeros_like(t)), (t_objective, t_bounds)
    )
    norms = objective.linearise(x).summary().column_norms
    t_x = _solution_tangent(objective, t_objective, bounds, t_bounds, x, norms, solver)
    t_x = jnp.where(ok, t_x, 0)

    def outcome(x, objective):
        _, j = objective.rows_at(x)
        return objective.cost(x), j.T @ j

    _, t_out = eqx.filter_jvp(outcome, (x, objective), (t_x, t_objective))
    t_cost, t_product = jax.tree.map(lambda t: jnp.where(ok, t, 0), t_out)
    return settled(*primals), (t_x, t_cost, t_product)


def _solution_tangent(
    objective: Objective | Spread,
    t_objective,
    bounds: Bounds | None,
    t_bounds,
    x: Vector,
    norms: Vector,
    solver: TRF,
) -> Vector:
    def gradient(x, objective):
        return jax.grad(lambda x: objective.cost(x))(x)

    g = gradient(x, objective)
    norms = jax.lax.stop_gradient(norms)
    scale = 1 / jnp.where(norms > 0, norms, 1)
    d, c = scale, jnp.zeros_like(x)
    lift = pull = jnp.zeros_like(x)
    if bounds is not None:
        _, dv, d, c = bounds.hat(x, g, scale)
        fixed, towards = bounds.fixed, dv != 0
        if t_bounds is not None:
            zero = jnp.zeros_like(x)
            t_lower = zero if t_bounds.lower is None else t_bounds.lower
            t_upper = zero if t_bounds.upper is None else t_bounds.upper
            t_bound = jnp.where(fixed | (dv > 0), t_lower, t_upper)
            # The share c / (c + d^2 |J|^2) of the bound's motion is taken over at once,
            # all of it at an active bound, and the system is left with the rest: S
            # would have to divide it by d, which is 1e-8 there.
            stiffness = (d * norms) ** 2
            share = jnp.where(towards, c / jnp.where(towards, c + stiffness, 1), 0)
            lift = jnp.where(fixed, 1, share) * t_bound
            pull = share * d * norms**2 * t_bound
    _, t_g = eqx.filter_jvp(gradient, (x, objective), (lift, t_objective))
    rhs = d * t_g - pull

    if solver.derivative == "gauss_newton":
        curvature = objective.linearise(x).product
    else:
        _, curvature = jax.linearize(lambda x: gradient(x, objective), x)

    def product(u):
        return d * curvature(d * u) + c * u

    if objective.form == "matrix_free":
        matvec = product

        def solve(b):
            return conjugate_gradients(product, b, solver.cg_steps)
    else:
        s = jax.vmap(product)(alike(jnp.eye(x.size, dtype=x.dtype), x))
        matvec = functools.partial(jnp.matmul, s)

        def solve(b):
            return Spectral.of_matrix(0.5 * (s + s.T), b).solve()

    u = jax.lax.custom_linear_solve(matvec, -rhs, lambda _, b: solve(b), symmetric=True)
    return d * u + lift
