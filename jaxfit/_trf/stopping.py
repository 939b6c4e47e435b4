"""The limits of a fit and the end of a step: the rules that every driver shares.

The traced loop (`trf`), the lanes of a batch and the passes over streamed data put the
parts of a step in different orders; when a step is over, and when a fit, is told here.
"""

import dataclasses

import jax.numpy as jnp

from .._basics.status import Status
from .._basics.types import Flag, Vector
from .algebra import every
from .method import Method
from .state import State


def exhausted(method: Method, state: State) -> Flag | bool:
    """Whether `max_nfev` evaluations of the residual have been made."""
    return False if method.max_nfev is None else state.nfev >= method.max_nfev


def at_rest(method: Method, state: State, start: Vector) -> Flag:
    """Whether the step from `start` makes no trial at all.

    It has ended, or begins anew, or was taken back, or may evaluate no more.
    """
    moved = ~every(state.x == start)
    return state.closed | state.fresh | moved | exhausted(method, state)


def settled(method: Method, state: State, accepted: Flag) -> Flag:
    """Whether a trial was the last one on its linearisation."""
    return accepted | (state.status != Status.RUNNING) | exhausted(method, state)


def limited(state: State, spent: Flag | bool) -> State:
    """The state with the status MAX_STEPS where a running fit has `spent` all."""
    running = state.status == Status.RUNNING
    status = jnp.where(running & spent, Status.MAX_STEPS, state.status)
    return dataclasses.replace(state, status=status.astype(state.status.dtype))


def finish(method: Method, state: State) -> State:
    """The end of an outer step: it counts against `max_steps` and `max_nfev`."""
    spent = state.num_steps >= method.max_steps
    return limited(state, spent | exhausted(method, state))


def still(state: State, start: Vector) -> Flag:
    """Whether the fit ends where its step began: its linearisation is known."""
    return (state.status != Status.RUNNING) & every(state.x == start)


def settle(method: Method, state: State, start: Vector) -> State:
    """The state after the trials of a step from `start`, recorded in the history.

    Where a fit ends without having moved, the linearisation is of its solution already;
    but a solution without a certificate has to be looked at once more.
    """
    if state.history is not None:
        # A closing pass, which is no step, goes nowhere.
        idle, end = state.closed | state.fresh, state.history.cost.size
        which = jnp.where(idle, end, state.num_steps - 1)
        history = state.history.record(which, state, state.optimality)
        state = dataclasses.replace(state, history=history)
    state = finish(method, state)
    known = state.certified | (state.status <= 0)
    closed = state.closed | (still(state, start) & known)
    return dataclasses.replace(state, closed=closed)
