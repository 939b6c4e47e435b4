"""Are the derivatives of a fit right?

Parameters of a exp(-b x) + c differentiated by y, x, sigma, the upper bounds and
f_scale in forward and in reverse mode, against central differences of whole fits at the
tightest settings: with every loss, with a bound that is active and without.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from tools.decay import START, data, model
from tools.report import report, table, target

import jaxfit


TIGHT = {"ftol": 0.0, "xtol": 1e-15, "gtol": 0.0}
LOSSES = ("linear", "soft_l1", "huber", "cauchy", "arctan")
TOPS = {"free": (9.0, 9.0, 9.0), "active bound": (2.2, 9.0, 9.0)}
# Of the size of each input. Two step lengths cancel the error of second order.
STEP = 1e-4


def inputs(top: tuple[float, ...]) -> dict[str, Array]:
    """All that the fit depends on; five points are outliers."""
    x, y = data(40)
    y[3::8] += 0.4
    sigma = 0.05 * (1 + 0.3 * np.cos(x))
    arrays = {"y": y, "x": x, "sigma": sigma, "upper": np.array(top), "f_scale": 1.5}
    return {name: jnp.asarray(value) for name, value in arrays.items()}


def fit(theta: dict[str, Array], loss: str, solver: jaxfit.TRF) -> Array:
    """The parameters as a function of all that they depend on."""
    problem = jaxfit.curve_problem(
        model,
        theta["x"],
        theta["y"],
        jnp.array(START),
        sigma=theta["sigma"],
        bounds=(jnp.zeros(3), theta["upper"]),
        loss=loss,
        f_scale=theta["f_scale"],
    )
    return jaxfit.solve(problem, solver).params


def errors(loss: str, top: tuple[float, ...], solver: jaxfit.TRF) -> dict[str, Any]:
    """The largest error of each derivative over the largest entry of that input's."""
    theta = inputs(top)
    flat, unravel = ravel_pytree(theta)
    sizes = {name: jnp.full_like(a, jnp.max(jnp.abs(a))) for name, a in theta.items()}

    def params(flat):
        return fit(unravel(flat), loss, solver)

    steps = STEP * ravel_pytree(sizes)[0]
    central = _by_input(differences(params, flat, steps), theta)
    out = {}
    for mode, derivative in (("forward", jax.jacfwd), ("reverse", jax.jacrev)):
        exact = _by_input(np.asarray(jax.jit(derivative(params))(flat)), theta)
        worst = 0.0
        for name, c in central.items():
            size = np.max(np.abs(c))
            error = np.max(np.abs(exact[name] - c))
            # No derivative at all (f_scale of a linear loss): then the error itself.
            worst = max(worst, float(error / size) if size > 1e-9 else float(error))
        out[mode] = worst
    return out


def differences(fn: Callable, at: Array, steps: Array) -> np.ndarray:
    """The Jacobian of `fn` by central differences of fourth order."""
    moves, every = jnp.diag(steps), jax.jit(jax.vmap(fn))
    near, far = (every(at + k * moves) - every(at - k * moves) for k in (1, 2))
    return np.asarray((8 * near - far).T / (12 * steps))


def _by_input(jacobian: np.ndarray, theta: dict[str, Array]) -> dict[str, np.ndarray]:
    names = sorted(theta)  # the order of ravel_pytree
    ends = np.cumsum([theta[name].size for name in names])[:-1]
    return dict(zip(names, np.split(jacobian, ends, axis=1), strict=True))


def second(solver: jaxfit.TRF) -> float:
    """The error of the Hessian of one parameter by y, against differences of grad."""
    theta = inputs(TOPS["free"])

    def rate(y):
        return fit({**theta, "y": y}, "linear", solver)[1]

    y = theta["y"]
    exact = np.asarray(jax.jit(jax.hessian(rate))(y))
    central = differences(jax.grad(rate), y, jnp.full_like(y, STEP))
    return float(np.max(np.abs(exact - central)) / np.max(np.abs(exact)))


def main(quick: bool) -> dict[str, Any]:
    losses = ("linear", "cauchy") if quick else LOSSES
    solvers = ("qr",) if quick else ("qr", "gram")
    rows = []
    for form in solvers:
        solver = jaxfit.TRF(linear_solver=form, **TIGHT)
        for loss in losses:
            for name, top in TOPS.items():
                found = errors(loss, top, solver)
                rows.append([loss, name, form, found["forward"], found["reverse"]])
    worst = max(max(row[3:]) for row in rows)
    hessian = second(jaxfit.TRF(**TIGHT))
    return report(
        __doc__,
        [
            target(
                f"worst relative error of {len(rows)} cases in two modes: at most 1e-6",
                worst,
                at_most=1e-6,
            ),
            target("second derivatives: at most 1e-6", hessian, at_most=1e-6),
        ],
        [
            table(
                "Relative error against central differences",
                ["loss", "bounds", "linear solver", "jacfwd", "jacrev"],
                rows,
            ),
        ],
        [
            "Derivatives by y, x, sigma, the upper bounds and f_scale; the worst of "
            "them, each over its own largest entry.",
            f"Central differences of fourth order, with steps of {STEP:g} of the size "
            "of each input.",
        ],
    )
