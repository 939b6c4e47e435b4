"""Are the derivatives of a fit right?

Parameters of a exp(-b x) + c differentiated by y, x, sigma, the upper bounds and f_scale
in forward and in reverse mode, against central differences of whole fits at the
tightest settings: with every loss, and with a bound that is active and one that is not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _decay import START, data, model
from _report import report, table, target
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxfit


# ftol stays at its default: a step that gains nothing but rounding ends the fit.
TIGHT = {"xtol": 1e-15, "gtol": 1e-15}
LOSSES = ("linear", "soft_l1", "huber", "cauchy", "arctan")
TOPS = {"free": (9.0, 9.0, 9.0), "active bound": (2.2, 9.0, 9.0)}
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

    def params(flat):
        return fit(unravel(flat), loss, solver)

    at = jax.jit(params)
    steps = STEP * np.eye(flat.size)
    columns = [(at(flat + s) - at(flat - s)) / (2 * STEP) for s in steps]
    central = _by_input(np.array(columns).T, theta)
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


def _by_input(jacobian: np.ndarray, theta: dict[str, Array]) -> dict[str, np.ndarray]:
    names = sorted(theta)  # the order of ravel_pytree
    ends = np.cumsum([theta[name].size for name in names])[:-1]
    return dict(zip(names, np.split(jacobian, ends, axis=1), strict=True))


def second(solver: jaxfit.TRF) -> float:
    """The error of the Hessian of one parameter by y, against differences of grad."""
    theta = inputs(TOPS["free"])

    def rate(y):
        return fit({**theta, "y": y}, "linear", solver)[1]

    y, gradient = theta["y"], jax.jit(jax.grad(rate))
    exact = np.asarray(jax.jit(jax.hessian(rate))(y))
    steps = STEP * np.eye(y.size)
    central = [(gradient(y + s) - gradient(y - s)) / (2 * STEP) for s in steps]
    return float(np.max(np.abs(exact - np.array(central))) / np.max(np.abs(exact)))


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
        "Are the derivatives of a fit right?",
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
            f"The differences take steps of {STEP:g} and are themselves right to about "
            "1e-8.",
        ],
    )
