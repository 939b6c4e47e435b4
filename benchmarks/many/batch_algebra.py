"""Up to how many parameters is elimination written out faster than a library's?

A step of a lane solves (B + alpha I) p = -g with the slope p'dp/dalpha. Written out as
arithmetic with the lanes along the last axis, against batched jnp.linalg.cholesky and
solve_triangular with the lanes along the first.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.measure import interleave
from tools.pixels import ON_GPU, device
from tools.report import report, table, target

from jaxfit._trf.elimination import solve_shifted


SIZES = (2, 3, 5, 8, 12, 16, 24)
LANES = 131_072 if ON_GPU else 1_024
REPEATS = 50
# Longer than this at one size, and the next size is not written out.
PATIENCE = 20.0
OURS, THEIRS = "written out", "library"


def library(b, g, alpha):
    """The same by the library's kernels, lanes first."""
    eye = jnp.eye(b.shape[-1], dtype=b.dtype)
    lower = jnp.linalg.cholesky(b + alpha[:, None, None] * eye)

    def solve(v, trans):
        return jax.lax.linalg.triangular_solve(
            lower, v[..., None], left_side=True, lower=True, transpose_a=trans
        )[..., 0]

    p = -solve(solve(g, False), True)
    q = solve(p, False)
    return p, -jnp.sum(q * q, axis=-1)


def repeated(solve: Callable) -> Callable:
    """`solve` many times, each alpha from the solution before: no call can be saved."""

    def run(b, g, alpha):
        def again(_, carry):
            alpha, _ = carry
            p, slope = solve(b, g, alpha)[:2]
            return 1.0 - slope / (1.0 - slope), p

        return jax.lax.fori_loop(0, REPEATS, again, (alpha, jnp.zeros_like(g)))

    return jax.jit(run)


def systems(n: int, dtype: Any) -> dict[str, tuple]:
    """The same systems in the layout of each."""
    rng = np.random.default_rng(n)
    j = rng.standard_normal((LANES, 2 * n, n))
    b = (j.transpose(0, 2, 1) @ j / (2 * n)).astype(dtype)
    g = rng.standard_normal((LANES, n)).astype(dtype)
    alpha = np.ones(LANES, dtype)
    lanes_last = np.moveaxis(b, 0, -1), g.T, alpha
    ways = {OURS: lanes_last, THEIRS: (b, g, alpha)}
    return {name: tuple(map(jnp.array, given)) for name, given in ways.items()}


def compared(n: int, dtype: Any, rounds: int, names: list[str]) -> dict[str, Any]:
    """What was measured of some of the ways, and how far the solutions differ."""
    solvers = {OURS: solve_shifted, THEIRS: library}
    given = systems(n, dtype)
    calls, compiling, found = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        run = repeated(solvers[name]).lower(*given[name]).compile()
        compiling[name] = time.perf_counter() - start
        calls[name] = lambda run=run, name=name: jax.block_until_ready(
            run(*given[name])
        )
        found[name] = np.asarray(calls[name]()[1])
    times = interleave(calls, rounds)
    ns = {name: 1e9 * times.median(name) / (REPEATS * LANES) for name in calls}
    out = {"ns": ns, "compiling": compiling, "ratio": None, "apart": 0.0}
    if len(names) > 1:
        difference = np.max(np.abs(found[OURS].T - found[THEIRS]))
        out["apart"] = float(difference / np.max(np.abs(found[OURS])))
        out["ratio"] = times.ratio(OURS, THEIRS)
    return out


def main(quick: bool) -> dict[str, Any]:
    rounds = 3 if quick else 11
    rows, ratios, apart = [], {}, {}
    for dtype in (np.float64, np.float32):
        name, names = np.dtype(dtype).name, [OURS, THEIRS]
        for n in SIZES[:4] if quick else SIZES:
            one = compared(n, dtype, rounds, names)
            ratios[name, n] = one["ratio"]
            apart[name] = max(apart.get(name, 0.0), one["apart"])
            ns, compiling = one["ns"], one["compiling"]
            row = [n, name, ns.get(OURS), ns[THEIRS], one["ratio"]]
            rows.append([*row, compiling.get(OURS), compiling[THEIRS]])
            if compiling.get(OURS, 0.0) > PATIENCE:
                names = [THEIRS]
    notes = []
    for name in apart:
        tried = {n: r for (other, n), r in ratios.items() if other == name and r}
        slower = [n for n, ratio in tried.items() if ratio > 1]
        where = f"from n = {min(slower)} on" if slower else f"nowhere to {max(tried)}"
        notes.append(f"{name}: the library is faster {where}.")
    return report(
        __doc__,
        [
            target(
                f"{name}, n up to 12: time over the library's, at most 1",
                max(
                    r
                    for (other, n), r in ratios.items()
                    if other == name and r and n <= 12
                ),
                at_most=1.0,
            )
            for name in apart
        ]
        + [
            target(
                "float64: largest difference of the solutions, 1e-10",
                apart["float64"],
                at_most=1e-10,
            )
        ],
        [
            table(
                f"One system of n equations, {LANES:,} lanes",
                [
                    "n",
                    "precision",
                    "ns a lane, written out",
                    "ns a lane, library",
                    "over library",
                    "s compiling, written out",
                    "s compiling, library",
                ],
                rows,
            ),
        ],
        [
            *notes,
            "jaxfit.solve_batch eliminates by arithmetic up to 12 parameters and by "
            "the library's kernels beyond.",
            f"Where compilation took longer than {PATIENCE:.0f} s, larger systems were "
            "not written out.",
            f"A call solves {REPEATS} times, each from the solution before, so that "
            "its own cost does not count.",
            device(),
        ],
    )
