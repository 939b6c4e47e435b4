"""The Trust Region Reflective method as one traced loop.

One outer step linearises at x, looks at what that shows and decides whether to go on
(`view`); its trials propose a point from the current radius, evaluate the cost there
and accept it or shorten the radius (`trial`), until the step is over (`stopping`). The
loop knows the data by two functions, `cost(x)` and `linearise(x)`, and carries nothing
longer than n^2.

`init`, `prepare`, `propose`, `judge` and the rules of `stopping` take many fits as they
take one: then every array has an axis of lanes behind its own, x is (n, lanes) (see
`_batch.lockstep`).

M. A. Branch, T. F. Coleman and Y. Li (1999), "A subspace, interior, and conjugate
gradient method for large-scale bound-constrained minimization problems", SIAM Journal
on Scientific Computing 21, 1-23.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from .._basics.packing import packing
from .._basics.types import Scalar, Vector
from .._basics.varying import alike
from .bounds import Bounds
from .linearisation import Linearisation
from .method import Method
from .reflection import Model
from .state import State, init
from .stopping import at_rest, settle, settled
from .trial import judge, propose
from .view import decide, look


def prepare(
    method: Method, state: State, lin: Linearisation, bounds: Bounds | None
) -> tuple[State, Model]:
    """Scale the variables, test `gtol`, factor the subproblem: once a step.

    A fit that has ended passes here once more, to know its solution's
    linearisation; that closes it.
    """
    view, model = look(method, state, lin, bounds)
    return decide(method, state, lin, view), model


def step(
    method: Method,
    state: State,
    cost: Callable[[Vector], Scalar],
    linearise: Callable[[Vector], Linearisation],
    bounds: Bounds | None,
) -> State:
    """One outer step: a linearisation, and trials until one is accepted.

    The trials are a masked `scan`: once settled, the rest do nothing.
    """
    start, history = state.x, state.history
    state = dataclasses.replace(state, history=None)
    state, model = prepare(method, state, linearise(state.x), bounds)
    pack, unpack = packing((state, state.closed), state.x.dtype)

    def trial(vector, _):
        def go(vector):
            state, _ = unpack(vector)
            x, p = propose(state, model, bounds)
            state, accepted = judge(method, state, x, p, cost(x))
            return pack((state, settled(method, state, accepted)))

        _, done = unpack(vector)
        return jax.lax.cond(done, lambda vector: vector, go, vector), None

    begin = pack((state, at_rest(method, state, start)))
    vector, _ = jax.lax.scan(trial, begin, None, method.trials)
    state, _ = unpack(vector)
    return settle(method, dataclasses.replace(state, history=history), start)


def minimise(
    method: Method,
    cost: Callable[[Vector], Scalar],
    linearise: Callable[[Vector], Linearisation],
    x: Vector,
    bounds: Bounds | None,
    blank: Any,
    num_rows: Array,
) -> State:
    """The fused driver: the whole fit as one `while_loop` over a `scan`."""
    start = alike(init(method, x, bounds, blank, num_rows), x)
    pack, unpack = packing(dataclasses.replace(start, history=None), x.dtype)

    def split(state):
        return pack(dataclasses.replace(state, history=None)), state.history

    def join(carry):
        return dataclasses.replace(unpack(carry[0]), history=carry[1])

    def turn(carry):
        return split(step(method, join(carry), cost, linearise, bounds))

    def running(carry):
        return ~unpack(carry[0]).closed

    return join(jax.lax.while_loop(running, turn, split(start)))
