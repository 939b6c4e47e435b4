"""A queue of problems and a fixed number of lanes: who has ended takes the next one.

    while any lane works:
        every lane takes a step
        lanes that have ended write their results and load the next problems

No lane waits for the slowest fit, and what the lanes work on stays in the cache however
long the queue is. Results go to the place of their problem, so their order is that
of the problems. A step serves at most a share of the lanes with new problems: what they
need is cut from the queue in one piece.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._basics.status import Status
from .._basics.trees import where
from .._basics.varying import axes_of, varying
from .._problem.problem import Problem
from .._solve.solve import active_bounds
from .._trf.trf import Fit
from .stack import Stack


# The share of lanes that may load at once. Most fits take 5 steps or more, so that
# fewer end at a step, but for the first; fits that start near their ends take 2 or 3.
SHARE, SHARE_OF_SHORT = 4, 2


# Parameters that (J'J)^-1 takes for known: "held" ones are fixed or at an active bound.
Known = Literal["held", "fixed"]


class Results(NamedTuple):
    """What the fits came to, problems first, in two arrays: each costs a write."""

    reals: Float[Array, "p w"]  # x, cost, optimality, lower half of (J'J)^-1
    counts: Int[
        Array, "p v"
    ]  # status, nfev, njev, num_steps, num_rows, active, lost, differenced


class _Lanes(eqx.Module):
    """The loop's memory: problems[i] is worked on by lane i, or none (>= the count)."""

    index: Int[Array, " l"]
    problems: Problem
    fits: Fit
    next: Int[Array, ""]
    useful: Int[Array, " l"]  # steps that each lane took for a fit
    results: Results


def run(
    stack: Stack,
    engine: Any,
    lanes: int,
    count: Int[Array, ""],
    covariance: Known | None,
    share: int,
) -> tuple[Results, Float[Array, ""]]:
    """The results of the first `count` problems, and the share of useful lane steps.

    One lane in `share` may load at a step.
    """
    loading = max(1, lanes // share)

    def load(index, problems):
        """Lanes with new problems, before their first step."""
        fits = engine.begin(problems)
        state = fits.state
        n = len(state.x)
        bounds = stack.bounds(problems)
        fixed = 0 if bounds is None else jnp.sum(bounds.fixed, axis=0)
        few = (state.num_rows < n - fixed) | (state.num_rows == 0)
        status = jnp.where(few, Status.TOO_FEW_DATA, state.status)
        state = dataclasses.replace(
            state,
            status=status.astype(state.status.dtype),
            closed=state.closed | few | (index >= count),
        )
        return dataclasses.replace(fits, state=state)

    def turn(lane: _Lanes) -> _Lanes:
        useful = lane.useful + ~lane.fits.state.closed
        fits = engine.advance(lane.problems, lane.fits)
        ended = fits.state.closed & (lane.index < count)
        lane = dataclasses.replace(lane, fits=fits, useful=useful)

        which = jnp.nonzero(ended, size=loading, fill_value=lanes)[0]
        results = _written(lane, which, engine, stack, covariance)
        coming = lane.next + jnp.arange(loading, dtype=jnp.int32)
        index = lane.index.at[which].set(coming, mode="drop")
        problems = stack.put(lane.problems, which, stack.take(coming))
        loaded = jnp.zeros(lanes, bool).at[which].set(True, mode="drop")
        fresh = load(index, problems)
        return _Lanes(
            index=index,
            problems=problems,
            fits=where(loaded, fresh, lane.fits),
            next=lane.next + jnp.sum(loaded, dtype=jnp.int32),
            useful=useful,
            results=results,
        )

    index = jnp.arange(lanes, dtype=jnp.int32)
    problems = stack.take(index)
    fits = load(index, problems)
    zero = jnp.zeros((), jnp.int32)
    start = _Lanes(
        index=index,
        problems=problems,
        fits=fits,
        next=zero + lanes,
        useful=jnp.zeros_like(index),
        results=_blank(stack, fits, covariance),
    )

    def step(carry):
        lane, steps = carry
        return turn(lane), steps + 1

    def working(carry):
        return jnp.any(carry[0].index < count)

    begin = varying((start, zero), axes_of((stack, count)))
    lane, steps = jax.lax.while_loop(working, step, begin)
    return lane.results, jnp.mean(lane.useful / jnp.maximum(steps, 1))


def _blank(stack: Stack, fits: Fit, covariance: Known | None) -> Results:
    x = fits.state.x
    p, n = stack.size, len(x)
    width = n + 2 + (n * (n + 1) // 2 if covariance else 0)
    return Results(
        jnp.full((p, width), jnp.nan, x.dtype),
        jnp.full((p, 6 + 2 * n), Status.RUNNING, jnp.int32),
    )


def _written(lane, which, engine, stack, covariance) -> Results:
    """The results with those of the lanes `which` at their places."""

    def some(a):
        return a.at[..., which].get(mode="clip")

    state = jax.tree.map(some, lane.fits.state)
    state = dataclasses.replace(state, lin=state.evidence)
    bounds = stack.bounds(lane.problems)
    lin = state.lin
    active, fixed = jnp.zeros(state.x.shape, jnp.int32), None
    if bounds is not None:
        bounds = jax.tree.map(lambda a: some(a) if a.shape[-1] > 1 else a, bounds)
        fixed = jnp.broadcast_to(bounds.fixed, state.x.shape)
        active = active_bounds(bounds, state.x, lin)
        if covariance == "held":
            fixed = active != 0
    half, lost = engine.inverse(state, fixed) if covariance else ([], active)
    counts = [state.status, state.nfev, state.njev, state.num_steps, state.num_rows]
    counts, told = jnp.stack(counts), (lin.differenced > 0)[None]
    new = Results(
        jnp.stack([*state.x, lin.cost, state.optimality, *half]),
        jnp.concatenate([counts, active, lost, told]).astype(jnp.int32),
    )
    place = lane.index.at[which].get(mode="fill", fill_value=stack.size)
    return jax.tree.map(
        lambda a, b: a.at[place].set(b.T, mode="drop"), lane.results, new
    )
