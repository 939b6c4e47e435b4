"""Fits to be resampled, and SciPy's refits of the same draws."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

import jaxfit
from jaxfit import TRF


M, N = 24, 2000
KEY = jax.random.key(11)
X = np.linspace(0, 3, M)
SIGMA = 0.03 * (1 + X)
USED = ~np.isin(np.arange(M), [3, 10, 17])
_NOISE = np.random.default_rng(4).normal(size=M)
_NOISE[[0, 8]] *= [2, -2]
Y = np.where(USED, 2 * np.exp(-1.3 * X) + 0.5 + SIGMA * _NOISE, np.nan)
INF = np.inf


def decay(x, p):
    return p["amp"] * jnp.exp(-p["rate"] * x) + p["base"]


def decay_jacobian(x, p):
    fall = jnp.exp(-p["rate"] * x)
    return {"amp": fall, "base": jnp.ones_like(x), "rate": -p["amp"] * x * fall}


BY_HAND = TRF(jacobian=decay_jacobian)


def numpy_residual(p, y=Y, rows=USED, sigma=SIGMA):
    amp, base, rate = p
    return ((amp * np.exp(-rate * X) + base - y) / sigma)[rows]


def tree(amp, base, rate):
    return {"amp": float(amp), "base": float(base), "rate": float(rate)}


FREE = (-INF,) * 3, (INF,) * 3


@cache
def fitted(box=FREE):
    """The problem, with three data masked, and its solution."""
    problem = jaxfit.curve_problem(
        decay,
        X,
        Y,
        tree(2, 0.5, 1.3),
        sigma=SIGMA,
        mask=USED,
        bounds=(tree(*box[0]), tree(*box[1])),
    )
    solution = jaxfit.solve(problem)
    assert solution.success
    return problem, solution


def flat(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


@cache
def replicates(kind, box=FREE):
    """N of them to all digits, of residuals by a Jacobian that a user wrote."""
    solver = BY_HAND if kind == "residual" else TRF()
    return jaxfit.bootstrap(*fitted(box), N, KEY, kind=kind, solver=solver)


@jax.jit
def traced(problem, solution):
    return jaxfit.bootstrap(problem, solution, N, KEY, kind="wild", solver=TRF())


@cache
def at_solution(box=FREE):
    """Residuals, leverage and (J'J)^-1 of what counts, by NumPy."""
    p = flat(fitted(box)[1].params)
    amp, _, rate = p
    fall = np.exp(-rate * X)
    free = np.array([1.0, box == FREE, 1.0])  # the floor is active
    jacobian = np.stack([fall, np.ones(M), -amp * X * fall], axis=1) / SIGMA[:, None]
    jacobian, r = (jacobian * free)[USED], numpy_residual(p)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    hat = np.einsum("mi,ij,mj->m", jacobian, inverse, jacobian)
    return r, hat, inverse, jacobian


def refit(y=Y, rows=USED, box=FREE, start=None, **options):
    """SciPy's fit of other data."""
    start = flat(fitted(box)[1].params) if start is None else start
    lower, upper = (np.array(side) for side in box)
    inside = np.clip(start, lower + 1e-6, upper - 1e-6)
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(
        lambda p: numpy_residual(p, y, rows),
        inside,
        jac="3-point",
        bounds=(lower, upper),
        **tight,
        **options,
    ).x


def drawn(i, count=M - 3):
    """Which of the data that count replicate i draws, one for each of all rows."""
    own = jax.random.fold_in(KEY, i)
    return np.asarray(jax.random.randint(own, (M,), 0, count))


def resampled(kind, i, box=FREE):
    """The data of replicate i, by the textbook, and the rows of them that count."""
    r, hat, inverse, _ = at_solution(box)
    own = jax.random.fold_in(KEY, i)
    if kind == "pairs":
        return Y, np.flatnonzero(USED)[drawn(i)[: USED.sum()]]
    if kind == "residual":
        whole = r / np.sqrt(1 - hat)
        new = (whole - whole.mean())[drawn(i)][USED]
    elif kind == "wild":
        signs = np.asarray(jax.random.rademacher(own, (M,), float))
        new = signs[USED] * r / (1 - hat)
    else:
        normal = np.asarray(jax.random.normal(own, (M,), float))
        new = normal[USED] * np.sqrt(r @ r / (USED.sum() - len(inverse)))
    y = Y.copy()
    y[USED] += SIGMA[USED] * (r - new)
    return y, USED
