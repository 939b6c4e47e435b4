"""How many small fits a second: a spot of light on 5x5 pixels, a million times?

Five parameters, bounds and covariances, by jaxfit.curve_fit_batch, NumPy arrays in and
out. Peers: scipy.optimize.curve_fit in a loop; optimistix LevenbergMarquardt and
jax.vmap(jaxfit.solve) in blocks by lax.map. And how well they agree.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.measure import fresh, interleave
from tools.pixels import (
    BLOCKS,
    BOUNDS,
    ON_GPU,
    batch,
    data,
    device,
    in_blocks,
    off,
    off_in_errors,
    optimistix_fit,
    problem,
    rate,
    scipy_loop,
    speedup,
)
from tools.report import report, table, target

import jaxfit


LM_LOOP, TRF_LOOP, CHECKED = 300, 100, 8_192
F64, F32 = "jaxfit, float64", "jaxfit, float32"
SETTINGS: dict[str, dict[str, Any]] = {
    F64: {},
    F64 + ", no bounds": {"bounded": False},
    F64 + ", neither": {"bounded": False, "covariance": False},
    F32: {"dtype": "float32"},
    F32 + ", polished": {"polish": True},
}
QUICK = (F64, F32, F32 + ", polished")
TIGHT = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12}
LM, TRF = "SciPy curve_fit, lm, loop", "SciPy curve_fit, trf, bounded, loop"
TOLERANCES = (1e-8, 1e-4)
# A peer's setting takes part if it solves this share of its fits this well, in standard
# errors: more digits than that are noise.
SHARE, ENOUGH = 0.999, 1e-3


def first_call(name: str) -> list[float]:
    """Seconds of the first call in this process, and of its compilation."""
    images, starts = data(100_000)
    start = time.perf_counter()
    result = batch(images, starts, **SETTINGS[name])
    return [time.perf_counter() - start, result.compile_time]


def first_calls(quick: bool) -> list[list[Any]]:
    rows = []
    for name in (F64,) if quick else SETTINGS:
        rounds = range(1 if quick else 3)
        every = [fresh("many.batch", "first_call", name) for _ in rounds]
        rows.append([name, *map(statistics.median, zip(*every, strict=True))])
    return rows


def vmapped(block: int):
    """`jax.vmap(jaxfit.solve)` in blocks, with the tolerances of curve_fit_batch."""
    root = float(np.sqrt(np.finfo(float).eps))
    solver = jaxfit.TRF(root, root, root, linear_solver="gram", trials=1)

    def fit(images, starts):
        problems = jax.vmap(problem)(images, starts)
        solve = jax.vmap(lambda problem: jaxfit.solve(problem, solver).params)
        return solve(problems)

    return in_blocks(fit, block)


def agreement(found: dict[str, np.ndarray], exact: np.ndarray, perr: np.ndarray):
    """Rows of the differences from SciPy's tight lm, on the fits of its loop."""
    rows = []
    for name, popt in found.items():
        popt = popt[: len(exact)]
        each, flat = off(popt, exact), off_in_errors(popt, exact, perr)
        rows.append([name, float(np.median(each)), float(each.max())])
        rows[-1] += [float(flat.max()), float(np.mean(each <= 1e-6))]
    return rows


def main(quick: bool) -> dict[str, Any]:
    count = 20_000 if quick else 1_000_000
    others = BLOCKS[-1] * (2 if quick or ON_GPU else 8)
    rounds = 3 if quick else 5
    settings = {name: SETTINGS[name] for name in (QUICK if quick else SETTINGS)}
    images, starts = data(max(count, others))
    some = jnp.asarray(images[:others]), jnp.asarray(starts[:others])
    images, starts = images[:count], starts[:count]

    blocked = {f"jax.vmap(jaxfit.solve), blocks of {512:,}": vmapped(512)}
    if ON_GPU:
        blocked = {f"jax.vmap(jaxfit.solve), {others:,} at once": vmapped(others)}
    for tolerance in TOLERANCES:
        for block in BLOCKS[-2:] if quick else BLOCKS:
            name = f"optimistix LM, {tolerance:g}, blocks of {block:,}"
            blocked[name] = in_blocks(jax.vmap(optimistix_fit(tolerance)), block)

    def with_setting(more):
        return lambda: batch(images, starts, **more).popt

    def with_blocks(fit):
        return lambda: np.asarray(fit(*some))

    calls = {name: with_setting(more) for name, more in settings.items()}
    calls |= {name: with_blocks(fit) for name, fit in blocked.items()}
    lm, trf = (images[:LM_LOOP], starts[:LM_LOOP]), (images[:TRF_LOOP], starts)
    trf = trf[0], trf[1][:TRF_LOOP]
    calls[LM] = lambda: scipy_loop(*lm, method="lm")
    calls[TRF] = lambda: scipy_loop(*trf, method="trf", bounds=BOUNDS)
    fits = dict.fromkeys(settings, count) | dict.fromkeys(blocked, others)
    fits |= {LM: LM_LOOP, TRF: TRF_LOOP}
    times = interleave(calls, rounds, 0.05 if quick else 0.3)

    checked = min(CHECKED, count, others)
    exact = batch(images, starts, **TIGHT)
    found = {"jaxfit, float64, tolerances 1e-12": exact.popt}
    rows, good = [], []
    for name, call in calls.items():
        found[name] = popt = np.array(call()[:checked])
        flat = off_in_errors(popt, exact.popt, exact.perr)
        share = float(np.mean(flat <= ENOUGH))
        if share >= SHARE:
            good.append(name)
        row = [name, fits[name], rate(times, name, fits)]
        row += [speedup(times, name, LM, fits), float(np.median(flat)), share]
        rows.append(row)

    def best(names):
        return max(names, key=lambda name: rate(times, name, fits), default=None)

    peers = [name for name in calls if name.startswith("optimistix")]
    theirs = best(name for name in peers if name in good)
    fastest = best(peers)
    same = best(name for name in peers if name.startswith("optimistix LM, 1e-08"))
    over = speedup(times, F64, theirs, fits) if theirs else float("nan")
    hasty = speedup(times, F64, fastest, fits)
    del found[TRF]
    truth = scipy_loop(*lm, method="lm", **TIGHT)
    agreed = agreement(found, truth, exact.perr)
    return report(
        __doc__,
        [
            target(
                "float64, bounds and covariance: fits a second over SciPy lm's, 40",
                speedup(times, F64, LM, fits),
                at_least=40.0,
            ),
            target(
                "float32, bounds and covariance: fits a second over SciPy lm's, 100",
                speedup(times, F32, LM, fits),
                at_least=100.0,
            ),
            target(
                "float64: fits a second over optimistix LM's best block at 1e-8, 8",
                speedup(times, F64, same, fits),
                at_least=8.0,
            ),
            target(
                "float64: fits a second over optimistix LM's best of all good, 8",
                over,
                at_least=8.0,
            ),
            target(
                "tolerances of 1e-12: largest relative difference from SciPy's, 1e-6",
                agreed[0][2],
                at_most=1e-6,
            ),
        ],
        [
            table(
                "Fits a second, warm",
                [
                    "call",
                    "fits",
                    "fits/s",
                    "over SciPy lm",
                    "median error",
                    "share of good fits",
                ],
                rows,
            ),
            table(
                f"Difference from SciPy's lm at tolerances of 1e-12, {LM_LOOP} fits",
                [
                    "call",
                    "median",
                    "worst",
                    "worst, in standard errors",
                    "share within 1e-6",
                ],
                agreed,
            ),
            table(
                "The first call in a new process, 100,000 fits",
                ["call", "s", "of which compiling"],
                first_calls(quick),
            ),
        ],
        [
            f"{F64} is compared with {theirs}: the fastest of which {SHARE:.1%} of the "
            f"fits are good, every parameter within {ENOUGH:g} standard errors of a "
            f"fit at tolerances of 1e-12. It does {hasty:.1f} times as many fits a "
            f"second as {fastest}, the fastest whatever its accuracy.",
            "Errors in the first table are in standard errors, those in the second "
            "relative, of amplitude, centre and width (without its sign).",
            "curve_fit_batch has bounds and covariances and stops by the root of the "
            "precision, 1.5e-8 in float64, unless said otherwise; 'neither' is what "
            "optimistix's fits are. SciPy's lm and "
            "optimistix have no bounds, optimistix and jax.vmap(jaxfit.solve) no "
            "covariances.",
            f"Loops over SciPy are timed on {LM_LOOP} (lm) and {TRF_LOOP} (trf) fits.",
            device(),
        ],
    )
