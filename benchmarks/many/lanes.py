"""How fast are 1,000 fits of 100 points under vmap?

Each lane has its own parameters of a exp(-b x) + c and its own noise; all start at
ones. Peers: optimistix LevenbergMarquardt at two tolerances, all lanes at once or in
blocks by lax.map; and scipy.optimize.curve_fit in a loop (timed on 100 fits).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import Array
from tools.decay import START, jaxfit_problem, numpy_model, optimistix_fit
from tools.measure import interleave
from tools.report import report, table, target

import jaxfit


LANES, POINTS, LOOP = 1000, 100, 100
# A setting takes part in the comparison if it solves this share of its lanes this well.
SHARE, ERROR = 0.999, 1e-6
LOOSE = {"ftol": 1e-8, "xtol": 1e-8, "gtol": 1e-8}
SETTINGS = {
    "jaxfit": jaxfit.TRF(),
    "jaxfit, gram, 1 trial": jaxfit.TRF(linear_solver="gram", trials=1),
    "jaxfit, gram, 1 trial, 1e-8": jaxfit.TRF(linear_solver="gram", trials=1, **LOOSE),
}
SCIPY = "SciPy curve_fit, loop"


def data(count: int = LANES) -> tuple[np.ndarray, np.ndarray]:
    """x, and y of shape (lanes, points) of lanes that differ."""
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 4.0, POINTS)
    a, b, c = rng.uniform([[1.0], [0.5], [0.0]], [[4.0], [3.0], [1.0]], (3, count))
    y = numpy_model(x, a[:, None], b[:, None], c[:, None])
    return x, y + 0.05 * rng.standard_normal(y.shape)


def jaxfit_fit(solver: jaxfit.TRF) -> Callable[[Array, Array], Array]:
    """The parameters of one lane."""
    return lambda x, y: jaxfit.solve(jaxfit_problem(x, y), solver).params


def lanes(fit: Callable, block: int) -> Callable[[Array, Array], Array]:
    """`fit` for all lanes: `block` of them at a time under vmap."""
    at_once = jax.vmap(fit, in_axes=(None, 0))

    def all_lanes(x, y):
        blocks = y.reshape(-1, block, y.shape[-1])
        if len(blocks) == 1:
            return at_once(x, y)
        return jax.lax.map(lambda y: at_once(x, y), blocks).reshape(len(y), -1)

    return jax.jit(all_lanes)


def scipy_loop(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The first lanes, one after the other."""
    fits = [scipy.optimize.curve_fit(numpy_model, x, row, p0=START) for row in y[:LOOP]]
    return np.array([popt for popt, _ in fits])


def isolation(x: Array, y: np.ndarray) -> tuple[float, int]:
    """Lanes against single fits, and how many change when their neighbour is NaN."""
    one = jax.jit(jaxfit_fit(jaxfit.TRF()))
    every = lanes(jaxfit_fit(jaxfit.TRF()), LANES)
    found, poisoned = np.asarray(every(x, jnp.asarray(y))), y.copy()
    poisoned[LANES // 2] = np.nan
    changed = np.any(np.asarray(every(x, jnp.asarray(poisoned))) != found, axis=1)
    changed[LANES // 2] = False
    alone = np.array([one(x, jnp.asarray(row)) for row in y[::20]])
    return float(np.max(np.abs(alone / found[::20] - 1))), int(changed.sum())


def main(quick: bool) -> dict[str, Any]:
    rounds = 3 if quick else 11
    blocks = (1000, 250) if quick else (1000, 500, 250)
    x, y = data()
    xs, ys = jnp.asarray(x), jnp.asarray(y)
    fits = {name: lanes(jaxfit_fit(s), LANES) for name, s in SETTINGS.items()}
    for tolerance in (1e-8, 1e-6):
        for block in blocks:
            name = f"optimistix LM, {tolerance:g}, blocks of {block:,}"
            fits[name] = lanes(optimistix_fit(tolerance), block)

    def call(fit):
        return lambda: np.asarray(fit(xs, ys))

    calls = {name: call(fit) for name, fit in fits.items()}
    calls[SCIPY] = lambda: scipy_loop(x, y)
    exact = np.asarray(lanes(jaxfit_fit(jaxfit.TRF(0.0, 1e-15, 0.0)), LANES)(xs, ys))
    times = interleave(calls, rounds, 0.05 if quick else 0.3)
    scale = {name: LANES / LOOP if name == SCIPY else 1.0 for name in calls}

    good, rows = [], []
    for name in calls:
        found = calls[name]()
        errors = np.max(np.abs(found / exact[: len(found)] - 1), axis=1)
        share = float(np.mean(errors <= ERROR))
        if share >= SHARE:
            good.append(name)
        seconds = times.median(name) * scale[name]
        rate, median = LANES / seconds, float(np.median(errors))
        rows.append([name, 1e3 * seconds, rate, median, float(errors.max()), share])

    def best(library):
        names = [name for name in good if name.startswith(library)]
        return min(names, key=times.median) if names else None

    ours, theirs = best("jaxfit"), best("optimistix")
    ratio = times.ratio(ours, theirs) if ours and theirs else float("nan")
    plain = times.ratio("jaxfit", theirs) if theirs else float("nan")
    fastest = min((n for n in calls if n.startswith("optimistix")), key=times.median)
    hasty = times.ratio(ours, fastest) if ours else float("nan")
    apart, changed = isolation(xs, y)
    return report(
        __doc__,
        [
            target(
                "time over that of optimistix LM's best setting: at most 0.5",
                ratio,
                at_most=0.5,
            ),
            target(
                "largest relative difference of a lane from the same fit alone: 1e-9",
                apart,
                at_most=1e-9,
            ),
            target(
                "lanes changed in any bit by a lane full of NaN: none",
                changed,
                at_most=0,
            ),
        ],
        [
            table(
                "1,000 fits of 100 points and three parameters",
                [
                    "setting",
                    "ms",
                    "fits/s",
                    "median error",
                    "worst error",
                    "share of good lanes",
                ],
                rows,
            ),
        ],
        [
            f"Compared: {ours} with {theirs}. A setting takes part if {SHARE:.1%} of "
            f"its lanes are good: every parameter within {ERROR:g} (relative) of a fit "
            "at the tightest settings.",
            f"jaxfit at its defaults takes {plain:.2f} times as long as that. {ours} "
            f"takes {hasty:.2f} times as long as the fastest setting of optimistix, "
            "whatever its accuracy.",
            "jaxfit has all lanes under one vmap; optimistix also had blocks.",
            f"The loop over SciPy is timed on {LOOP} fits and scaled up.",
        ],
    )
