"""The derivative of a fit, by the implicit function theorem.

A solution x satisfies F(x, theta) = v(x, g) * g = 0, with g the gradient of the cost
and v the Coleman-Li vector, for all data theta: the residual's closure, args, weights,
loss scale and bounds. Therefore

    dx = -(dF/dx)^-1 dF/dtheta dtheta,      dF/dx = diag(v) H + diag(dv g)

In the hat variables of `_trf.view` the matrix is symmetric and, at a minimum, positive
semidefinite: S = diag(d) H diag(d) + diag(c). An active bound makes its row
(ub - x) or (x - lb) times g, so x follows the bound; a fixed parameter follows it
by definition. Directions in which S has no curvature get derivative 0, and so
does a fit that failed (`status` < 0): defined, and harmless to its neighbours.

Where the exact Hessian is not finite though the fit is (`_problem.repair`), or a
residual has a derivative of its own that forbids another, J'J takes its place and J is
held while theta moves: the derivative of the Gauss-Newton method, which lacks the
curvature of the residual. What has no such substitute, the derivative of J'J, is NaN.

The number of passes over the data does not depend on how many steps the fit took, and
the rule is itself differentiable, so second derivatives work.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._basics.precision import in_full_products, in_own_settings
from .._basics.types import Flag, Matrix, Scalar, Vector
from .._basics.varying import alike
from .._problem.derivatives import forbids_forward
from .._problem.objective import Objective
from .._problem.repair import lengths
from .._problem.sharded import Spread
from .._trf import trf
from .._trf.bounds import Bounds
from .._trf.matrix_free import conjugate_gradients
from .._trf.state import State
from .._trf.subproblem import Spectral
from .solver import TRF


@eqx.filter_custom_jvp
def minimise(
    objective: Objective | Spread, bounds: Bounds | None, x: Vector, solver: TRF
) -> State:
    """The final state of the fit; `state.x` has the derivative described above."""
    return trf.minimise(solver, objective, x, bounds)


@minimise.def_jvp
@in_own_settings
@in_full_products
def _minimise_jvp(primals, tangents):
    objective, bounds, start, solver = primals
    t_objective, t_bounds, _, _ = tangents
    state = minimise(objective, bounds, start, solver)
    ok = state.status >= 0
    # Masked on the way in as well: reverse mode runs backwards, and there this keeps
    # the NaN of a failed fit out of the cotangents that it shares with its neighbours.
    t_objective, t_bounds = jax.tree.map(
        lambda t: jnp.where(ok, t, jnp.zeros_like(t)), (t_objective, t_bounds)
    )
    x, lin = state.x, state.lin
    t_x, rough = _solution_tangent(
        objective, t_objective, bounds, t_bounds, x, lin, solver
    )
    t_x = jnp.where(ok, t_x, 0)
    t_lin = _summary_tangent(objective, t_objective, x, lin, t_x, rough)
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
@in_own_settings
@in_full_products
def _settled_jvp(primals, tangents):
    objective, bounds, x, ok, solver = primals
    t_objective, t_bounds, *_ = tangents
    t_objective, t_bounds = jax.tree.map(
        lambda t: jnp.where(ok, t, jnp.zeros_like(t)), (t_objective, t_bounds)
    )
    found = settled(*primals)
    lin = objective.linearise(x).summary()
    t_x, rough = _solution_tangent(
        objective, t_objective, bounds, t_bounds, x, lin, solver
    )
    t_x = jnp.where(ok, t_x, 0)

    def product(x, objective):
        _, j = objective.rows_at(x)
        return j.T @ j

    moved = objective, t_objective, x
    t_out = (
        _cost_tangent(*moved, lin, t_x),
        _tangent(product, found[2], *moved, t_x, rough),
    )
    t_cost, t_product = jax.tree.map(lambda t: jnp.where(ok, t, 0), t_out)
    return found, (t_x, t_cost, t_product)


def _solution_tangent(
    objective: Objective | Spread,
    t_objective,
    bounds: Bounds | None,
    t_bounds,
    x: Vector,
    lin: Any,
    solver: TRF,
) -> tuple[Vector, Flag | None]:
    """The derivative of x, and whether it is Gauss and Newton's for want of an exact
    one; None where it surely is. `lin` is the summary of the linearisation at x."""

    def gradient(x, objective):
        return jax.grad(lambda x: objective.cost(x))(x)

    g = gradient(x, objective)
    rough: Flag | None = ~jnp.all(jnp.isfinite(g))
    g = jnp.where(rough, lin.grad, g)
    norms = jax.lax.stop_gradient(lin.column_norms)
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

    def exact(tangents):
        return _along(gradient, (x, objective), tangents)

    def product(curvature, u):
        return d * curvature(d * u) + c * u

    def curvature():
        if solver.derivative == "gauss_newton":
            return objective.linearise(x).product
        return jax.linearize(lambda x: gradient(x, objective), x)[1]

    tangents = lift, t_objective
    if not objective.form.dense:
        matvec = functools.partial(product, curvature())
        t_g = exact(tangents)

        def solve(b):
            return conjugate_gradients(matvec, b, solver.cg_steps)
    else:
        eye = alike(jnp.eye(x.size, dtype=x.dtype), x)
        held = jax.vmap(functools.partial(product, lin.product))(eye)
        try:
            s = jax.vmap(functools.partial(product, curvature()))(eye)
            rough |= ~jnp.all(jnp.isfinite(s))
            s = jnp.where(rough, held, s)
            t_g = _gradient_tangent(exact, objective, x, lin, rough, tangents)
        except TypeError as err:
            if not forbids_forward(err):
                raise
            rough, s = None, held
            t_g = _held_tangent(objective, x, lin, tangents)
        matvec = functools.partial(jnp.matmul, s)

        def solve(b):
            return Spectral.of_matrix(0.5 * (s + s.T), b).solve()

    rhs = d * t_g - pull
    u = jax.lax.custom_linear_solve(matvec, -rhs, lambda _, b: solve(b), symmetric=True)
    return d * u + lift, rough


def _gradient_tangent(exact, objective, x, lin, rough: Flag, tangents) -> Vector:
    """dF/dtheta dtheta: exact, or where that is `rough` with J held.

    What each way is given is masked on its way in, for reverse mode (see above). Rows
    on several devices have no way but the exact one.
    """
    if isinstance(objective, Spread):
        return exact(tangents)

    def masked(which):
        return jax.tree.map(lambda t: jnp.where(which, t, jnp.zeros_like(t)), tangents)

    held = _held_tangent(objective, x, lin, masked(rough))
    return jnp.where(rough, held, exact(masked(~rough)))


def _held_tangent(objective: Objective | Spread, x, lin, tangents) -> Vector:
    """J' d(rho' r) with J held, and J'J times the motion of bounds."""
    if isinstance(objective, Spread):
        raise TypeError(
            "the residual has a derivative of its own that forbids forward mode: a fit "
            "of it has no derivative where its rows lie on several devices."
        )
    lift, t_objective = tangents
    length = lengths(lin.cost, lin.column_norms)
    _, jt = objective.repaired_columns(x, objective.rows, objective.mask, length)

    def influence(objective):
        r = objective.residuals(x)
        _, r, scale = objective.loss.robustify(r)
        return r if scale is None else r * scale

    t_psi = _along(influence, (objective,), (t_objective,))
    return jnp.stack([*jt]) @ t_psi + lin.product(lift)


def _summary_tangent(objective, t_objective, x, lin, t_x: Vector, rough) -> Any:
    """The derivative of the linearisation; if `rough` of its cost alone, else NaN."""

    def summary(x, objective):
        return objective.linearise(x).summary()

    t_lin = _tangent(summary, lin, objective, t_objective, x, t_x, rough)
    t_cost = _cost_tangent(objective, t_objective, x, lin, t_x)
    if rough is not None:
        t_cost = jnp.where(rough, t_cost, t_lin.cost)
    return eqx.tree_at(lambda lin: lin.cost, t_lin, t_cost)


def _tangent(fn, value, objective, t_objective, x, t_x: Vector, rough) -> Any:
    """The derivative of `fn(x, objective)`, of this value; NaN if `rough`."""
    if rough is None:
        return jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), value)
    t_in = jax.tree.map(
        lambda t: jnp.where(rough, jnp.zeros_like(t), t), (t_x, t_objective)
    )
    t_out = _along(fn, (x, objective), t_in)
    return jax.tree.map(lambda t: jnp.where(rough, jnp.nan, t), t_out)


def _cost_tangent(objective, t_objective, x, lin, t_x: Vector) -> Scalar:
    """The derivative of the cost, by the gradient of the linearisation at x."""

    def cost(objective):
        return objective.cost(x)

    return _along(cost, (objective,), (t_objective,)) + lin.grad @ t_x


def _along(fn, primals: tuple, tangents: tuple) -> Any:
    """The derivative of fn along tangents; 0, and not None, where nothing moves it."""
    out, moved = eqx.filter_jvp(fn, primals, tangents)
    return jax.tree.map(
        lambda a, t: jnp.zeros_like(a) if t is None else t,
        out,
        moved,
        is_leaf=lambda leaf: leaf is None,
    )
