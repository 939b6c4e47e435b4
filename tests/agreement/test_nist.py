"""The NIST StRD problems for nonlinear regression, from both certified starts.

All 27 data sets are certified to 11 digits, and the digits of an answer are counted as
NIST does: log relative error against the certified value, capped at 11.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF, datasets


# The certified residual sum of squares of Lanczos1 is 1.4e-25: its data are exact to 14
# digits, so the rounding of y in float64 alone changes the standard errors.
ROUNDING = {"Lanczos1"}
SMOKE = {"Misra1a", "Lanczos3", "BoxBOD"}


def digits(value, certified):
    """Correct digits of `value`, at most 11; 0 for NaN."""
    value, certified = np.asarray(value), np.asarray(certified)
    with np.errstate(divide="ignore"):
        lre = -np.log10(np.abs(value - certified) / np.abs(certified))
    return np.clip(np.nan_to_num(lre, nan=0.0), 0.0, 11.0)


@jax.jit
def fit(problem, solver):
    """The solution and the standard errors of its parameters, asked for both ways."""
    solution = jaxfit.solve(problem, solver)
    errors = jnp.sqrt(jnp.diagonal(solution.covariance()))
    return solution, jnp.stack([errors, jaxfit.covariance(problem, solution).errors])


def test_there_are_27_sets_of_three_levels_of_difficulty():
    names = datasets.nist_names()
    assert len(names) == len(set(names)) == 27
    levels = [datasets.nist(name).difficulty for name in names]
    assert {level: levels.count(level) for level in set(levels)} == {
        "lower": 8,
        "average": 11,
        "higher": 8,
    }


@pytest.mark.parametrize("name", ["misra1a", "Misra1", "", "Misra1a "])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"`name` must be one of \['Bennett5'.*got '"):
        datasets.nist(name)


@pytest.mark.parametrize("name", datasets.nist_names())
def test_the_table_agrees_with_itself(name):
    data = datasets.nist(name)
    functions = {f: getattr(np, f) for f in ("exp", "log", "sin", "cos", "arctan")}
    params = {f"b{i}": b for i, b in enumerate(data.certified, start=1)}
    scope = {**functions, **params, **data.x, "pi": math.pi}
    residual = data.y - eval(data.expression, {}, scope)
    rss = float(np.sum(residual**2))
    assert data.degrees_of_freedom == data.y.size - data.certified.size
    assert len(data.std_dev) == len(data.certified) == len(data.starts[0])
    assert data.residual_std_dev == pytest.approx(
        math.sqrt(data.residual_sum_of_squares / data.degrees_of_freedom), rel=1e-9
    )
    # The certified parameters themselves are rounded to 11 digits.
    if name in ROUNDING:
        assert rss < 1e-18
    else:
        assert digits(rss, data.residual_sum_of_squares) > 6


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.smoke if name in SMOKE else ())
        for name in datasets.nist_names()
    ],
)
def test_default_settings_give_six_digits_from_both_starts(name):
    data = datasets.nist(name)
    for start in (0, 1):
        solution, errors = fit(data.problem(start), TRF())
        assert solution.success
        assert digits(solution.params, data.certified).min() >= 6
        if name in ROUNDING:
            assert 2 * solution.cost < 1.5e-25
        else:
            assert digits(errors, data.std_dev).min() >= 6
            rss = 2 * solution.cost
            assert digits(rss, data.residual_sum_of_squares) >= 9
        assert solution.dof == data.degrees_of_freedom


def test_options_of_a_problem_reach_it():
    data = datasets.nist("Misra1a")
    top = np.array([300.0, 1.0])
    problem = data.problem(1, loss="huber", f_scale=0.5, bounds=(0.0, top))
    assert problem.loss.f_scale == 0.5
    np.testing.assert_array_equal(problem.upper, top)
    np.testing.assert_array_equal(problem.params, data.starts[1])


def test_tight_tolerances_give_nearly_all_digits_that_are_certified():
    tight = TRF(ftol=0.0, gtol=0.0, xtol=1e-15)
    means = []
    for name in datasets.nist_names():
        data = datasets.nist(name)
        for start in (0, 1):
            solution, _ = fit(data.problem(start), tight)
            means.append(digits(solution.params, data.certified).mean())
            # Lanczos3 keeps 7 to 8, as a machine's rounding will have it.
            assert means[-1] > 6.5, (name, start)
            assert solution.num_steps < 2000, (name, start)
    assert len(means) == 54
    assert np.mean(means) > 9.7
