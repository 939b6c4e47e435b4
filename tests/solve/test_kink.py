"""A minimum by a kink is told from a smooth point, in all units."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit import TRF, Problem, curve_problem
from jaxfit._solve.kink import is_kink


SOLVER = TRF()
UNITS = [1e-15, 1.0, 1e12]


def kink(residual, x, bounds=None, **options):
    x = np.asarray(x, float)
    problem = Problem(residual, x, bounds=bounds, **options)
    return bool(is_kink(problem, SOLVER, jnp.asarray(x)))


def valley(p, _):
    """Its minimum is at (1, 1), on the fold p0 = p1."""
    return jnp.stack([1 + 3 * jnp.abs(p[0] - p[1]), p[0] + p[1] - 2])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("away", [0.0, 1e-9, -1e-6])
def test_the_minimum_of_an_absolute_value(unit, away):
    def residual(p, _):
        return 1 + jnp.abs(p / unit - 2) * jnp.array([1.0, 2.0])

    assert kink(residual, [(2 + away) * unit])


@pytest.mark.parametrize("unit", UNITS)
def test_a_fold_between_the_axes(unit):
    assert kink(lambda p, _: valley(p / unit, None), np.array([1.0, 1.0]) * unit)
    assert not kink(lambda p, _: valley(p / unit, None), np.array([2.0, 0.5]) * unit)


@pytest.mark.parametrize(
    "fold",
    [
        lambda z: jnp.maximum(z, 0) + jnp.maximum(-2 * z, 0),
        lambda z: jnp.where(z > 0, 3 * z, -z),
        lambda z: jnp.sqrt(jnp.abs(z)),
    ],
    ids=["max", "where", "root"],
)
def test_folds_of_other_kinds(fold):
    assert kink(lambda p, _: jnp.stack([2 + fold(p[0] - 3), p[1] - 1]), [3.0, 1.0])


def test_a_kink_that_the_cost_crosses_downhill_is_no_end():
    def residual(p, _):
        return 5 + 3 * p + jnp.abs(p)

    assert not kink(residual, [0.0])


def test_a_kink_under_a_robust_loss_and_in_data():
    x = np.linspace(0, 1, 11)
    y = np.abs(x - 0.5) + 0.1
    p = jnp.array([0.5])
    # A model with a fold at a datum that lies above it.
    problem = curve_problem(
        lambda x, p: jnp.abs(x - p[0]) * 4.0, x, y, p, loss="soft_l1"
    )
    assert not is_kink(problem, SOLVER, p)
    problem = curve_problem(lambda x, p: jnp.abs(x - p[0]), x, y - 2, p, loss="soft_l1")
    assert is_kink(problem, SOLVER, p)


SMOOTH = {
    "decay": lambda t, p: p[0] * jnp.exp(-p[1] * t) + p[2],
    "peak": lambda t, p: p[0] * jnp.exp(-0.5 * ((t - p[1]) / p[2]) ** 2),
    "wave": lambda t, p: p[0] * jnp.sin(8 * p[1] * t + p[2]),
    "power": lambda t, p: p[0] + p[1] * (t + 0.1) ** p[2],
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("unit", UNITS)
def test_smooth_points_are_none(name, unit):
    t = np.linspace(0.0, 3.0, 40)
    model, rng = SMOOTH[name], np.random.default_rng(1)
    y = np.asarray(model(t, np.array([2.0, 1.3, 0.5]))) + rng.normal(0, 0.05, t.size)

    def scaled(x, p):
        return unit * model(x, p)

    for p in ([2.0, 1.3, 0.5], [1.0, 1.0, 1.0], [20.0, 0.1, 0.2], [2.0, 1.3, 5.0]):
        problem = curve_problem(scaled, t, unit * y, np.array(p))
        assert not is_kink(problem, SOLVER, jnp.array(p))


def test_an_exact_fit_is_none():
    t = np.linspace(0.0, 3.0, 40)
    p = np.array([2.0, 1.3, 0.5])
    y = SMOOTH["decay"](t, p)
    assert not is_kink(curve_problem(SMOOTH["decay"], t, y, p), SOLVER, jnp.array(p))


def test_a_bound_is_none():
    def residual(p, _):
        return p + 1

    assert not kink(residual, [0.0], bounds=(0.0, 9.0))
