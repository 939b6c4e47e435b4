"""Families of problems that several files fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import (
    ENDS,
    LANES,
    SOLVER,
    P,
    broyden,
    make_curves,
    plain,
    poison,
    raw_curves,
)

from jaxfit import Problem, solve_batch


@pytest.fixture(scope="module")
def curves():
    return make_curves(raw_curves())


@pytest.fixture(scope="module")
def curve_fits(curves):
    return solve_batch(curves, SOLVER, lanes=LANES)


@pytest.fixture(scope="module")
def plain_fits():
    return solve_batch(plain(), SOLVER, lanes=LANES)


@pytest.fixture(scope="module")
def wide():
    """Problems of 14 parameters."""
    target = 0.1 * np.random.default_rng(6).normal(size=(P, 14))
    return jax.vmap(lambda b: Problem(broyden, -jnp.ones(14), b))(target)


@pytest.fixture(scope="module")
def all_kinds():
    """A batch with a poisoned problem of each kind, and where they are."""
    raw = raw_curves()
    places = dict(zip(ENDS, range(3, P, 4), strict=False))
    for kind, at in places.items():
        poison(raw, kind, at)
    return solve_batch(make_curves(raw), SOLVER, lanes=LANES), places
