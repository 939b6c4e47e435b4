"""Does an accelerator find what the CPU finds, to the stated digits?

The same fits on the device and, in a process of its own meanwhile, on the CPU: spots of
light on 5x5 pixels by `curve_fit_batch`, one peak of 10,000 points by `solve`, and the
derivative of its parameters with respect to its data.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools import peak
from tools.budget import Budget
from tools.measure import fresh
from tools.pixels import batch, data, off
from tools.report import report, table, target

import jaxfit


KINDS = "float64", "float32"
# Digits of the worst fit that are promised. Sums are added in another order there, and
# a fit amplifies the rounding that differs.
STATED = {
    ("parameters of spots", "float64"): 10,
    ("standard errors of spots", "float64"): 8,
    ("parameters of a peak", "float64"): 10,
    ("standard errors of a peak", "float64"): 8,
    ("derivatives of a peak", "float64"): 8,
    ("parameters of spots", "float32"): 3,
    ("standard errors of spots", "float32"): 2,
    ("parameters of a peak", "float32"): 4,
    ("standard errors of a peak", "float32"): 3,
    ("derivatives of a peak", "float32"): 3,
}


def in_kind(a: np.ndarray, kind: str) -> Any:
    """As it is, in double precision; else as an array of JAX, fitted in its own."""
    return a if kind == "float64" else jnp.asarray(a, kind)


def found(spots: int, points: int) -> dict[str, dict[str, Any]]:
    """What is found on the device that JAX finds, by precision."""
    jax.config.update("jax_enable_x64", True)
    return {kind: _found(kind, spots, points) for kind in KINDS}


def _found(kind: str, spots: int, points: int) -> dict[str, Any]:
    fits = batch(*[in_kind(a, kind) for a in data(spots)])

    @jax.jit
    def one(x, y):
        solution = jaxfit.solve(peak.problem(x, y))
        return solution.params, jnp.sqrt(jnp.diagonal(solution.covariance()))

    @jax.jit
    def slopes(x, y):
        return jax.jacrev(lambda y: jaxfit.solve(peak.problem(x, y)).params)(y)

    # Made by NumPy, for devices draw and round in ways of their own.
    x = np.linspace(-3, 3, points)
    noise = peak.NOISE * np.random.default_rng(0).standard_normal(points)
    y = np.asarray(peak.model(x, peak.TRUTH)) + noise
    x, y = jnp.asarray(x, kind), jnp.asarray(np.round(y, 3), kind)
    popt, perr = one(x, y)
    arrays = {
        "parameters of spots": fits.popt,
        "standard errors of spots": fits.perr,
        "parameters of a peak": popt,
        "standard errors of a peak": perr,
        "derivatives of a peak": slopes(x, y),
    }
    return {name: np.asarray(a, float).tolist() for name, a in arrays.items()}


def differences(name: str, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """How far each fit is from the CPU's; inf where only one of them is a number."""
    if name == "parameters of spots":
        far = off(here, there)
    elif name == "derivatives of a peak":  # of each parameter's largest
        far = np.max(np.abs(here - there), axis=1) / np.max(np.abs(there), axis=1)
    else:
        far = np.max(np.atleast_2d(np.abs(here / there - 1)), axis=1)
    known = [np.isfinite(np.atleast_2d(a)).all(axis=1) for a in (here, there)]
    far = np.where(known[0] & known[1], far, np.inf)
    return np.where(~known[0] & ~known[1], 0.0, far)


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    spots, points = (1_000, 1_000) if quick else (20_000, 10_000)
    rows, targets = [], []
    if budget.allows("agreement with the CPU", 0 if quick else 40):
        with ThreadPoolExecutor(1) as pool:
            theirs = pool.submit(
                fresh, "accelerator.agreement", "found", spots, points, **ON_CPU
            )
            ours, cpu = found(spots, points), theirs.result()
        for (name, kind), digits in STATED.items():
            far = differences(
                name, np.array(ours[kind][name]), np.array(cpu[kind][name])
            )
            worst = float(far.max())
            rows.append([name, kind, len(far), float(np.median(far)), worst, digits])
            least = -np.log10(worst) if worst > 0 else 16.0
            targets.append(
                target(
                    f"{name}, {kind}: digits of the worst, {digits}",
                    float(least),
                    at_least=digits,
                )
            )
    columns = ["of", "precision", "fits", "median", "largest", "digits stated"]
    return report(
        __doc__,
        targets,
        [table("Relative differences from the CPU", columns, rows)],
        [f"{spots:,} spots of light, and one peak of {points:,} points."],
    )


ON_CPU = {"JAX_PLATFORMS": "cpu"}
