"""What is it worth that a lane whose fit has ended takes the next one?

jaxfit.solve_batch of the fits of 'Batch' and of some whose steps differ more, with a
number of lanes and refill over the whole batch; against lax.map of solve_batch over
blocks of as many fits as lanes, where every lane waits for the slowest of its block.
Warm, on one device, arrays in its memory; and jax.vmap(jaxfit.solve) in such blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.measure import interleave
from tools.pixels import ON_GPU, data, device, in_blocks, problem, rate, speedup
from tools.report import report, table, target

import jaxfit


LANES = (4_096, 16_384, 65_536) if ON_GPU else (512, 1_024)
TARGETED = 16_384 if ON_GPU else 512
ROOT = float(np.sqrt(np.finfo(float).eps))
SOLVER = jaxfit.TRF(ROOT, ROOT, ROOT, linear_solver="gram", trials=1)
NEAR, FAR = "starts of 'Batch'", "far starts"


def fits(kind: str, count: int) -> tuple[jax.Array, jax.Array]:
    """Images and starts; the far ones are up to 3 times off and 1.5 pixels away."""
    images, starts = data(count)
    if kind == FAR:
        rng = np.random.default_rng(3)
        starts *= 3.0 ** rng.uniform(-1, 1, starts.shape)
        starts[:, 1:3] = 2 + rng.uniform(-1.5, 1.5, (count, 2))
    return jnp.asarray(images), jnp.asarray(starts)


def by_batch(lanes: int):
    """solve_batch of all images and starts that it is given."""

    def fit(images, starts):
        stacked = jax.vmap(problem)(images, starts)
        solution = jaxfit.solve_batch(stacked, SOLVER, lanes=lanes)
        return solution.params, solution.num_steps, solution.lane_efficiency[None]

    return fit


def by_vmap(images, starts):
    """jax.vmap(jaxfit.solve) of all images and starts that it is given."""
    solve = jax.vmap(lambda problem: jaxfit.solve(problem, SOLVER))
    solution = solve(jax.vmap(problem)(images, starts))
    return solution.params, solution.num_steps, jnp.full(1, jnp.nan)


def main(quick: bool) -> dict[str, Any]:
    count = 16_384 if quick else 65_536
    sizes = (64, 512) if quick else LANES
    rounds = 3 if quick else 5
    rows, worth = [], {}
    for kind in (NEAR, FAR):
        arrays = fits(kind, count)
        ways = {}
        for lanes in sizes:
            ways[f"refill, {lanes:,}"] = jax.jit(by_batch(lanes))
            ways[f"blocks, {lanes:,}"] = in_blocks(by_batch(lanes), lanes)
        ways[f"vmap(solve), {TARGETED:,}"] = in_blocks(by_vmap, TARGETED)

        def call(way, arrays=arrays):
            return lambda: jax.block_until_ready(way(*arrays))

        calls = {name: call(way) for name, way in ways.items()}
        times = interleave(calls, rounds)
        counts = dict.fromkeys(calls, count)
        for name in calls:
            _, steps, efficiency = calls[name]()
            over = None
            if name.startswith("refill"):
                lanes = name.removeprefix("refill, ")
                over = speedup(times, name, f"blocks, {lanes}", counts)
                worth[kind, lanes] = over
            useful = float(jnp.mean(efficiency))
            row = [kind, name, rate(times, name, counts), over]
            row += [None if np.isnan(useful) else useful]
            rows.append([*row, float(jnp.mean(steps)), int(jnp.max(steps))])
    return report(
        __doc__,
        [
            target(
                f"{kind}, {TARGETED} lanes: fits a second over blocks', at least 1",
                worth[kind, f"{TARGETED:,}"],
                at_least=1.0,
            )
            for kind in (NEAR, FAR)
        ],
        [
            table(
                f"{count:,} fits in float64, with bounds and covariance",
                [
                    "fits",
                    "way, lanes",
                    "fits/s",
                    "over blocks",
                    "lane efficiency",
                    "mean steps",
                    "most steps",
                ],
                rows,
            ),
        ],
        [
            "Both ways run the same program for a step; blocks are as many fits as "
            "lanes. jax.vmap(jaxfit.solve) computes no covariances.",
            "Far starts are up to 3 times off in amplitude, width and offset and up to "
            "1.5 pixels in the centre.",
            "The batch runs in one piece here. curve_fit_batch cuts it into slices for "
            "each core and has its rate in the section 'Batch'.",
            device(),
        ],
    )
