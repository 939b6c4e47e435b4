"""The Trust Region Reflective method as one traced loop.

A step linearises at a trial point, judges the trial (`trial`), looks at what the last
accepted linearisation shows and decides whether to go on (`view`), and proposes the
next trial. So the data are visited once a step, an ended fit knows the linearisation at
its solution without another visit, and a start is a trial that is accepted unseen. A
fit and the lanes of a batch, whose arrays have an axis of lanes behind their own, share
this `advance` (see `_batch.lockstep`).

Where J costs much more than the residual, with many parameters or without a matrix, a
rejected trial must not cost a J: there a step linearises at x, and a masked `scan` over
radii evaluates the cost alone until a trial is accepted (`step`).

The loop knows the data by a `Data`, and carries nothing longer than n^2.

M. A. Branch, T. F. Coleman and Y. Li (1999), "A subspace, interior, and conjugate
gradient method for large-scale bound-constrained minimization problems", SIAM Journal
on Scientific Computing 21, 1-23.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._basics.once import once
from .._basics.packing import packing
from .._basics.status import Status
from .._basics.trees import where
from .._basics.types import Count, Flag, Matrix, Scalar, Vector
from .._basics.varying import alike, axes_of
from .algebra import UNROLL, every
from .bounds import Bounds
from .linearisation import Linearisation, is_finite
from .matrix_free import Slope
from .method import Method
from .reflection import Model, Step
from .state import History, State, init, recorded
from .stopping import at_rest, exhausted, finish, limited, settle, settled, still
from .trial import judge, propose
from .triangle import Triangle
from .view import View, decide, look


@runtime_checkable
class Data(Protocol):
    """What the loop asks of the data."""

    @property
    def num_rows(self) -> Array:
        """The number of residuals that count."""
        ...

    @property
    def has_products(self) -> bool:
        """Whether `products` may stand for a `Triangle` of a well-conditioned J."""
        ...

    def blank(self, x: Vector) -> Any:
        """The structure of the linearisations, NaN everywhere."""
        ...

    def cost(self, x: Vector) -> Scalar: ...

    def linearise(self, x: Vector) -> Linearisation: ...

    def products(self, x: Vector) -> Matrix:
        """[J r]'[J r], with twice the cost in the corner."""
        ...


def prepare(
    method: Method, state: State, lin: Linearisation, bounds: Bounds | None
) -> tuple[State, Model]:
    """Scale the variables, test `gtol`, factor the subproblem: once a step.

    A fit that has ended passes here once more, to know its solution's
    linearisation; that closes it.
    """
    view, model = look(method, state, lin, bounds)
    state = decide(method, state, lin, view)
    return dataclasses.replace(state, step_norm=jnp.zeros_like(state.cost)), model


def step(
    method: Method,
    state: State,
    cost: Callable[[Vector], Scalar],
    linearise: Callable[[Vector], Linearisation],
    bounds: Bounds | None,
) -> State:
    """One outer step by radii: a linearisation, and trials until one is accepted.

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


class Fit(eqx.Module):
    """A fit on its way: its state, and the trial that it makes next.

    `careful` is whether products of columns have turned out to lose digits; `blocked`
    whether a trial since the last move was rejected for want of derivatives alone;
    `tries` counts the trials of the step under way that were rejected.
    """

    state: State
    trial: Vector
    step: Step
    careful: Flag
    blocked: Flag
    tries: Count

    @staticmethod
    def begin(state: State) -> "Fit":
        """A fit before its first step: the trial is the start."""
        zero, no = jnp.zeros_like(state.cost), jnp.zeros_like(state.closed)
        return Fit(
            state,
            state.x,
            Step(jnp.zeros_like(state.x), zero, zero),
            no,
            no,
            state.njev,
        )


def advance(
    method: Method, fit: Fit, seen: Linearisation, bounds: Bounds | None
) -> Fit:
    """One step, of a fit or of lanes: `seen` is the linearisation at the trial."""
    old = fit.state
    within = once if fit.trial.ndim > 1 else _plainly
    state, lin, blocked, tries = within(_judged, old.nfev, method, fit, seen)
    view, model = within(look, old.nfev, method, state, lin, bounds)
    told = state, lin, view, blocked, tries
    state = within(_decided, old.nfev, method, old, *told)
    # A fit that has ended, or begins anew, proposes to stay.
    model = eqx.tree_at(
        lambda model: (model.subproblem.grad, model.subproblem.own.p, model.grad_h),
        model,
        replace_fn=lambda a: jnp.where(state.closed | state.fresh, 0, a),
    )
    trial, step = propose(state, model, bounds)
    return Fit(where(old.closed, old, state), trial, step, fit.careful, blocked, tries)


def _plainly(fn: Callable, _: Array, *args: Any) -> Any:
    return fn(*args)


def _judged(method: Method, fit: Fit, seen: Any) -> tuple[State, Any, Flag, Count]:
    """The state after the trial, the linearisation there, `blocked` and `tries`.

    A step is over when a trial is accepted, or after `trials` of them.
    """
    old = fit.state
    finite = is_finite(seen)
    # A point without derivatives is none to go on from.
    cost = jnp.where(finite, seen.cost, jnp.inf)
    judged, accepted = judge(method, old, fit.trial, fit.step, cost)
    over = settled(method, judged, accepted) | (fit.tries + 1 >= method.trials)
    state = where(over, finish(method, judged), judged)
    state = where(old.fresh, old, state)
    tries = jnp.where(over | old.fresh, 0, fit.tries + 1)
    stayed = every(state.x == old.x)
    blocked = (fit.blocked | (jnp.isfinite(seen.cost) & ~finite)) & stayed
    return state, where(old.fresh | accepted, seen, old.lin), blocked, tries


def _decided(
    method: Method,
    old: State,
    state: State,
    lin: Any,
    view: View,
    blocked: Flag,
    tries: Count,
) -> State:
    """The state after a look at the linearisation."""
    new = decide(method, state, lin, view)
    lost = blocked & (new.status == Status.STALLED)
    status = jnp.where(lost, Status.NONFINITE_JACOBIAN, new.status)
    goes_on = tries > 0
    known = (still(state, old.x) & ~old.fresh) | goes_on
    new = dataclasses.replace(
        new,
        status=status.astype(new.status.dtype),
        num_steps=jnp.where(goes_on, old.num_steps, new.num_steps),
        njev=jnp.where(known, old.njev, new.njev),
    )
    ended = limited(new, exhausted(method, new))
    closed = new.closed | (ended.status != new.status)
    return dataclasses.replace(ended, closed=closed)


def visit(data: Data, fit: Fit) -> Any:
    """What the data say at the trial: a linearisation, or `products` in its place."""
    if not data.has_products:
        return data.linearise(fit.trial).summary()

    def by_reflections(x):
        lin: Any = data.linearise(x)  # a `Triangle`
        return lin.as_products()

    def by_products(x):  # a function: JAX cannot hash a method of data
        return data.products(x)

    if axes_of(fit.trial):
        # JAX fails to batch a branch with constants inside `shard_map`; batched, both
        # branches run anyway.
        both = by_reflections(fit.trial), by_products(fit.trial)
        return jnp.where(fit.careful, *both)
    return jax.lax.cond(fit.careful, by_reflections, by_products, fit.trial)


def proceed(
    method: Method, fit: Fit, visited: Any, bounds: Bounds | None, products: bool
) -> Fit:
    """One step after a `visit`; or none, but a careful one from then on."""
    if not products:
        return advance(method, fit, visited, bounds)
    blank = fit.state.lin
    lin, sound = Triangle.of_products(visited, blank)
    lin = where(fit.careful, Triangle.as_laid(visited, blank), lin)
    sound |= fit.careful
    new = where(sound, advance(method, fit, lin, bounds), fit)
    return dataclasses.replace(new, careful=fit.careful | ~sound)


def start(method: Method, data: Data, x: Vector, bounds: Bounds | None) -> Fit:
    """A fit before its first step."""
    state = init(method, x, bounds, data.blank(x), data.num_rows)
    return Fit.begin(alike(state, x))


def is_by_radii(fit: Fit) -> bool:
    """Whether a rejected trial is to cost no J: many parameters, or no matrix."""
    return fit.state.x.size > UNROLL or isinstance(fit.state.lin, Slope)


def turn(method: Method, data: Data, fit: Fit, bounds: Bounds | None) -> Fit:
    """One turn of the loop, in either order."""
    if is_by_radii(fit):
        state = step(method, fit.state, data.cost, data.linearise, bounds)
        return dataclasses.replace(fit, state=state)
    new = proceed(method, fit, visit(data, fit), bounds, data.has_products)
    return joined(new, recorded(fit.state.history, fit.state, new.state))


def minimise(method: Method, data: Data, x: Vector, bounds: Bounds | None) -> State:
    """The fused driver: the whole fit as one `while_loop`.

    On a CPU a turn is two loops of one turn each, the visit and the algebra. XLA runs
    a computation on several threads where it has more than eight kernels and an array
    of more than 512 bytes, and a hand-over costs more than such a kernel: so what
    touches data has few kernels, and what has many kernels touches no data.
    """
    fit = start(method, data, x, bounds)
    history = fit.state.history
    pack, unpack = packing(joined(fit, None), x.dtype)
    split = jax.default_backend() == "cpu" and not is_by_radii(fit)
    if split:
        blank = jax.eval_shape(lambda: visit(data, fit))
        blank = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), blank)
        rest = alike((jnp.zeros((), jnp.int32), blank), x)
    else:
        rest = ()

    def first(carry):
        packed, phase, _ = carry
        fit = unpack(packed)
        # The phase is 0, and below 1, but the compiler cannot know: what depends on it
        # is not moved out of these loops.
        fit = dataclasses.replace(fit, trial=fit.trial * (1 + phase))
        return packed, phase + 1, visit(data, fit)

    def second(carry):
        packed, phase, visited = carry
        seen = jax.tree.map(lambda a: a * phase.astype(a.dtype), visited)
        fit = proceed(method, unpack(packed), seen, bounds, data.has_products)
        return pack(fit), phase - 1, visited

    def go(carry):
        packed, rest, history = carry
        old = unpack(packed)
        if not split:
            fit = turn(method, data, joined(old, history), bounds)
            return pack(joined(fit, None)), rest, fit.state.history
        visited = jax.lax.while_loop(lambda c: c[1] == 0, first, (packed, *rest))
        packed, *rest = jax.lax.while_loop(lambda c: c[1] > 0, second, visited)
        new = unpack(packed).state
        return packed, tuple(rest), recorded(history, old.state, new)

    def running(carry):
        return ~unpack(carry[0]).state.closed

    begin = pack(joined(fit, None)), rest, history
    packed, _, history = jax.lax.while_loop(running, go, begin)
    return joined(unpack(packed), history).state


def joined(fit: Fit, history: History | None) -> Fit:
    """The fit with this history."""
    state = dataclasses.replace(fit.state, history=history)
    return dataclasses.replace(fit, state=state)
