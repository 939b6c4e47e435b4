"""What data do not determine is told in words that are true of the parameters."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from health import NOISY, START, T, X, checked, twofold

import jaxfit
from jaxfit import curve_problem


APART = ("residuals stay the same along log a - log b",)
APART += ("residuals stay the same along c - d",)


def words_of(report):
    """What findings say, and the null directions of the spectrum."""
    seen = tuple(f.seen for f in report.findings if f.code == "not-identifiable")
    return seen, report.directions[report.rank :]


@pytest.mark.smoke
def test_a_product_and_a_sum_are_named_apart():
    start = {**START, "b": 1.5, "d": 0.5}
    report = checked(curve_problem(twofold, T, NOISY, start))
    assert report.codes == ("not-identifiable", "not-identifiable")
    assert [f.params for f in report.findings] == [("a", "b"), ("c", "d")]
    assert report.rank == 3 and report.condition == np.inf
    assert words_of(report) == (APART, ("a - b", "c - d"))


@pytest.mark.parametrize("a", [2.0, -2.0])
@pytest.mark.parametrize("b", [1.5, -1.5])
@pytest.mark.parametrize("c, d", [(0.0, 0.5), (4.0, -3.0), (-3.0, 4.0)])
def test_the_words_are_true_of_parameters_of_any_sign(a, b, c, d):
    """a falls as b grows in size, and c falls as d grows, whatever their signs."""
    y = np.sign(a * b) * NOISY
    start = {"a": a, "b": b, "c": c, "d": d, "k": 1.0}
    problem = curve_problem(twofold, T, y, start)
    report = checked(problem)
    seen, spectrum = words_of(report)
    assert seen == APART
    # The spectrum is of a step: where a grows b has to fall, or to grow if a b < 0.
    assert spectrum == ("a - b" if a * b > 0 else "a + b", "c - d")


def test_the_words_stay_wherever_along_the_null_space_the_fit_has_ended():
    start = {**START, "b": 1.5, "d": 0.5}
    problem = curve_problem(twofold, T, NOISY, start)
    solution = jaxfit.solve(problem)
    rng = np.random.default_rng(0)
    for i in range(25):
        p = {name: float(value) for name, value in solution.params.items()}
        factor, shift = np.exp(rng.uniform(-2, 2)), rng.uniform(-3, 3)
        if i % 5 == 0:  # as another processor may round
            factor, shift = 1 + 1e-15 * rng.integers(-9, 9), 1e-16
        p["a"], p["b"] = p["a"] * factor, p["b"] / factor
        p["c"], p["d"] = p["c"] + shift, p["d"] - shift
        p = {name: jnp.asarray(value) for name, value in p.items()}
        moved = eqx.tree_at(lambda s: s.params, solution, p)
        assert words_of(jaxfit.diagnose(problem, moved))[0] == APART


def test_powers_and_what_is_neither_sum_nor_product():
    def powers(x, p):
        return p["a"] * p["b"] ** 2 * x

    report = checked(curve_problem(powers, X, 3 * X, {"a": 1.0, "b": 2.0}))
    (finding,) = (f for f in report.findings if f.code == "not-identifiable")
    assert finding.seen == "residuals stay the same along log a - 0.5 log b"

    def sphere(x, p):
        return (p["a"] ** 2 + 3 * p["b"] ** 2) * x

    report = checked(curve_problem(sphere, X, 3 * X, {"a": 1.0, "b": 1.0}))
    (finding,) = (f for f in report.findings if f.code == "not-identifiable")
    # There a and b are 0.87 each, and a falls by three times what b grows by.
    assert finding.seen.startswith("residuals stay the same, to first order, along ")
