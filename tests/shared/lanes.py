"""Two families of problems for `solve_batch`, and what `vmap` of `solve` makes of them.

Most tests share two families of 40 problems of 12 rows, so that few programs are
compiled: `curves` with bounds, masks, sigma and a robust loss, `plain` without any.
With so few rows the rows are summed in one go whatever the lanes, and all comes out
the same to the bit.
"""

import functools
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import TRF, Problem, Status, curve_problem


P, M, N, LANES = 40, 12, 3, 16
T = np.linspace(0.0, 3.0, M)
START = np.array([1.0, 1.0, 0.1])

# Far enough above rounding that two orders of summation end at the same step.
TOLERANCES = types.MappingProxyType({"ftol": 1e-9, "xtol": 1e-9, "gtol": 1e-9})
SOLVER = TRF(max_steps=60, **TOLERANCES)


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def data(rows: int = M, count: int = P, seed: int = 0) -> np.ndarray:
    """Noisy decays."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 3.0, rows)
    a, b, c = rng.uniform([1, 0.5, 0.2], [3, 2, 1], (count, 3)).T[..., None]
    return a * np.exp(-b * t) + c + 0.05 * rng.normal(size=(count, rows))


def leaves(tree) -> np.ndarray:
    """The arrays of a batched tree as one, problems first."""
    parts = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)


def same(one, other):
    """The same fits to rounding: another program, which XLA may fuse otherwise."""
    for part in ("counts", "active_mask", "num_rows", "lost"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    for part in ("params", "cost", "half"):
        ours, theirs = getattr(one, part), getattr(other, part)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def equal(one, other, but=(), efficiency=False):
    """All fits are the same to the bit, those of some problems aside."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    if not efficiency:
        one = eqx.tree_at(lambda s: s.lane_efficiency, one, 0.0)
        other = eqx.tree_at(lambda s: s.lane_efficiency, other, 0.0)

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.ndim and len(but):
            a, b = np.delete(a, but, axis=0), np.delete(b, but, axis=0)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(check, one, other)


def alike(one, other, rtol=1e-9):
    """The same fits but for rounding."""
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.num_rows, other.num_rows)
    np.testing.assert_array_equal(leaves(one.active_mask), leaves(other.active_mask))
    np.testing.assert_allclose(leaves(one.params), leaves(other.params), rtol, 1e-9)
    np.testing.assert_allclose(one.cost, other.cost, rtol, 1e-25)
    scale = np.maximum(np.asarray(other.cost), 1e-3)
    np.testing.assert_allclose(
        one.optimality / scale, other.optimality / scale, rtol=0, atol=1e-6
    )


@functools.cache
def plain(rows: int = M, count: int = P) -> Problem:
    t = jnp.linspace(0.0, 3.0, rows)

    def one(y):
        return curve_problem(decay, t, y, START)

    return jax.vmap(one)(data(rows, count))


def raw_curves() -> dict[str, np.ndarray]:
    """What differs among `curves`: data, starts, bounds, and rows that count."""
    rng = np.random.default_rng(1)
    upper = np.full((P, N), np.inf)
    lower = np.zeros((P, N))
    upper[::4, 0] = 1.2  # active in most of these
    lower[1::4, 2] = upper[1::4, 2] = 0.4  # fixed
    lower[2::4, 1] = 1.5  # active where the rate is less
    start = np.where(upper == lower, lower, START)
    start[2::4, 1] = 2.0
    y = data()
    y[::5, 2] += 1.0  # outliers
    return {
        "y": y,
        "sigma": rng.uniform(0.5, 2.0, (P, M)),
        "mask": np.arange(M) < rng.integers(7, M + 1, (P, 1)),
        "start": start,
        "lower": lower,
        "upper": upper,
    }


@jax.jit
@jax.vmap
def make_curves(raw) -> Problem:
    return curve_problem(
        decay,
        T,
        raw["y"],
        raw["start"],
        sigma=raw["sigma"],
        mask=raw["mask"],
        bounds=(raw["lower"], raw["upper"]),
        loss="soft_l1",
        f_scale=0.1,
    )


def slopes(x, p):
    e = jnp.exp(-p[1] * x)
    return jnp.stack([e, -p[0] * x * e, jnp.ones_like(x)], axis=1)


def own(max_nfev, **choices) -> TRF:
    """A solver with a Jacobian and scales of its own, and few evaluations."""
    scale = np.array([2.0, 1.0, 0.5])
    more = {"jacobian": slopes, "x_scale": scale, "max_nfev": max_nfev}
    return TRF(**more, **TOLERANCES, **choices)


def broyden(p, target):
    """MGH 30, a tridiagonal system, with a right-hand side."""
    left, right = jnp.pad(p, (1, 0))[:-1], jnp.pad(p, (0, 1))[1:]
    return (3.0 - 2.0 * p) * p - left - 2.0 * right + 1.0 - target


def auto_mesh(shape, names):
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=kinds)


def poison(raw, kind, at):
    """Make the data of one problem bad in some way."""
    if kind == "NaN":
        raw["y"][at, 3] = np.nan
    elif kind == "inf":
        raw["y"][at, 0] = np.inf
    elif kind == "large":
        raw["y"][at] = 1e200
    elif kind == "no data":
        raw["mask"][at] = False
    elif kind == "two data":
        raw["mask"][at, 2:] = False
    elif kind == "outside":
        raw["start"][at, 0] = -1.0
    elif kind == "overflow":
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = [1.0, -400.0, 0.1]
    elif kind == "nearly overflow":
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = [1.0, -100.0, 0.1]
    else:
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = START
        raw["mask"][at] = True
        raw["y"][at] = 3 - T  # an amplitude without end


ENDS = {
    "NaN": Status.NONFINITE_START,
    "inf": Status.NONFINITE_START,
    "large": Status.NONFINITE_START,
    "no data": Status.TOO_FEW_DATA,
    "two data": Status.TOO_FEW_DATA,
    "outside": Status.INFEASIBLE_START,
    "overflow": Status.NONFINITE_START,
    "nearly overflow": None,
    "endless": Status.MAX_STEPS,
}
