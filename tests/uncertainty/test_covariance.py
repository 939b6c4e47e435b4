"""Covariances of each kind against NumPy, SciPy and the fits that they stand for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from decays import RNG, SIGMA, START, Formulas, M, X, Y, close, problem, solve
from jax.flatten_util import ravel_pytree

import jaxfit
from jaxfit._uncertainty.covariance import combinations


MASK = np.arange(M) % 7 != 5
KINDS = ["gauss_newton", "hessian", "sandwich"]


@pytest.fixture(scope="module")
def solution():
    return solve(problem())


# --- Each kind -------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["estimated", "known"])
def test_gauss_newton_is_scipys(solution, noise):
    def model(x, a, b, c):
        return a * np.exp(-b * x) + c

    def jacobian(x, a, b, c):
        e = np.exp(-b * x)
        return np.stack([e, -a * x * e, np.ones_like(x)], axis=1)

    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    start = list(START.values())
    best, pcov = scipy.optimize.curve_fit(
        model, X, Y, start, SIGMA, noise == "known", jac=jacobian, method="trf", **tight
    )
    found = jaxfit.covariance(problem(), solution, noise=noise)
    close(found.matrix, pcov, 1e-6)
    close(found.errors, np.sqrt(np.diagonal(pcov)), 1e-6)
    close(ravel_pytree(found.params)[0], best, 1e-6)
    close(found.matrix, solution.covariance(noise == "estimated"), 1e-12)


@pytest.mark.parametrize("noise", ["estimated", "known", "robust"])
@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
def test_curvature_and_noise_are_chosen_apart(solution, kind, noise):
    found = jaxfit.covariance(problem(), solution, kind=kind, noise=noise)
    formulas = Formulas(solution.params)
    asked = None if noise == "estimated" else noise
    close(found.matrix, formulas.of(kind, asked))
    close(found.variance, 1 if noise == "known" else getattr(formulas, noise))
    assert (found.kind, found.noise) == (kind, noise)


def test_the_hessian_is_that_of_the_cost(solution):
    """Differentiated twice, without regard to residuals or a linearisation."""

    def cost(p):
        r = (p[0] * jnp.exp(-p[1] * X) + p[2] - Y) / SIGMA
        return 0.5 * jnp.sum(r**2)

    x = ravel_pytree(solution.params)[0]
    expected = 2 * cost(x) / (M - 3) * np.linalg.inv(jax.hessian(cost)(x))
    exact = jaxfit.covariance(problem(), solution, kind="hessian")
    close(exact.matrix, expected)
    # The curvature of the model is seen here: these are not the same numbers.
    plain = jaxfit.covariance(problem(), solution)
    assert np.abs(exact.errors / plain.errors - 1).max() > 0.01


def test_the_sandwich_takes_residuals_at_their_word(solution):
    found = jaxfit.covariance(problem(), solution, kind="sandwich")
    formulas = Formulas(solution.params)
    close(found.matrix, formulas.sandwich)
    assert (found.kind, found.noise) == ("sandwich", None)
    assert float(found.variance) == 1
    # The unit of the residuals does not matter to it.
    estimated = np.sqrt(np.diagonal(formulas.of("gauss_newton")))
    assert 0.3 < np.min(found.errors / estimated) < np.max(found.errors / estimated) < 3


def test_the_sandwich_of_a_linear_model_is_hc3():
    """(X'X)^-1 X' diag(e^2 / (1 - h)^2) X (X'X)^-1, of MacKinnon and White."""
    design = np.vander(X, 3)
    y = design @ [0.3, -1.0, 2.0] + (0.05 + 0.1 * X) * RNG.standard_normal(M)
    there = jaxfit.curve_problem(lambda x, p: jnp.polyval(p, x), X, y, np.zeros(3))
    solution = solve(there)
    bread = np.linalg.inv(design.T @ design)
    e = y - design @ bread @ design.T @ y
    h = np.diagonal(design @ bread @ design.T)
    filling = design.T @ np.diag(e**2 / (1 - h) ** 2) @ design
    found = jaxfit.covariance(there, solution, kind="sandwich")
    close(found.matrix, bread @ filling @ bread, 1e-6)
    # A linear model has no curvature: the Hessian is that of Gauss and Newton.
    found = jaxfit.covariance(there, solution, kind="hessian")
    close(found.matrix, e @ e / (M - 3) * bread, 1e-6)


@pytest.mark.smoke
def test_of_a_robust_loss():
    """The noise is Huber's sum(psi^2) / dof / mean(psi'), and H has all curvature."""
    there = problem(loss="soft_l1", f_scale=0.8)
    solution = solve(there)
    formulas = Formulas(solution.params, scale=0.8)
    for kind in KINDS:
        found = jaxfit.covariance(there, solution, kind=kind)
        close(found.matrix, formulas.of(kind))
    assert abs(formulas.estimated / (2 * solution.cost / (M - 3)) - 1) > 0.1


def test_masked_data_count_for_nothing():
    there = problem(np.where(MASK, Y, np.nan), mask=MASK)
    solution = solve(there)
    formulas = Formulas(solution.params, used=MASK)
    for kind, noise in (("gauss_newton", "robust"), ("sandwich", None)):
        found = jaxfit.covariance(there, solution, kind=kind, noise=noise)
        close(found.matrix, formulas.of(kind, noise))
    close(solution.covariance(), formulas.of("gauss_newton"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_with_a_matrix(solution, kind):
    found = jaxfit.covariance(problem(), solution, kind=kind)
    size = np.sqrt(np.diagonal(found.matrix))
    close(found.errors, size)
    close(found.correlation, found.matrix / np.outer(size, size))
    close(found.determined, found.matrix)
    jax.tree.map(np.testing.assert_array_equal, found.params, solution.params)
    assert int(found.rank) == 3
    for flags in (found.fixed, found.dropped, found.undetermined):
        assert flags.shape == (3,) and not np.any(flags)
    np.testing.assert_array_equal(found.null, 0)
    assert found.null_directions() == ()


# --- Bounds ----------------------------------------------------------------------

LOWER = {"a": -9.0, "b": -9.0, "c": -9.0}
UPPER = {"a": 9.0, "b": 9.0, "c": 9.0}
TOP = 0.4


@pytest.fixture(scope="module")
def active():
    """A fit whose offset is held by its bound."""
    there = problem(bounds=(LOWER, {**UPPER, "c": TOP}))
    solution = solve(there)
    assert int(solution.active_mask["c"]) == 1
    return there, solution


@pytest.fixture(scope="module")
def fixed():
    """The same with the offset fixed there."""
    bounds = {**LOWER, "c": TOP}, {**UPPER, "c": TOP}
    there = problem(start={**START, "c": TOP}, bounds=bounds)
    return there, solve(there)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_parameter_is_known_exactly(fixed, kind):
    there, solution = fixed
    found = jaxfit.covariance(there, solution, kind=kind)
    formulas = Formulas(solution.params, free=(0, 1))
    close(found.matrix, formulas.of(kind))
    np.testing.assert_array_equal(found.matrix[2], 0)
    np.testing.assert_array_equal(found.fixed, [False, False, True])
    assert not np.any(found.dropped) and not np.any(found.undetermined)
    assert int(found.rank) == 2
    assert np.all(np.isnan(found.correlation[2]))
    close(found.determined, found.matrix)


@pytest.mark.parametrize("noise", ["estimated", "known", "robust", None])
def test_a_parameter_at_its_bound_is_taken_for_known(active, fixed, noise):
    """The others have the errors of the fit in which it is fixed."""
    kind = "sandwich" if noise is None else "gauss_newton"
    found = jaxfit.covariance(*active, kind=kind, noise=noise)
    np.testing.assert_array_equal(found.dropped, [False, False, True])
    assert not np.any(found.fixed)
    np.testing.assert_array_equal(found.matrix[2], 0)
    assert int(found.rank) == 2
    expected = jaxfit.covariance(*fixed, kind=kind, noise=noise)
    close(found.errors, expected.errors, 1e-6)
    close(found.matrix, expected.matrix, 1e-6)


def test_of_the_hessian_too(active, fixed):
    found, expected = (
        jaxfit.covariance(*fit, kind="hessian", noise="known")
        for fit in (active, fixed)
    )
    close(found.matrix, expected.matrix, 1e-6)
    close(found.matrix, Formulas(active[1].params, free=(0, 1)).hessian, 1e-6)


@pytest.mark.parametrize("kind", ["gauss_newton", "sandwich"])
def test_bounds_can_be_disregarded(active, kind):
    there, solution = active
    found = jaxfit.covariance(there, solution, kind=kind, active="keep")
    close(found.matrix, Formulas(solution.params).of(kind))
    assert not np.any(found.dropped)
    assert int(found.rank) == 3
    if kind == "gauss_newton":
        dropped = jaxfit.covariance(there, solution)
        assert np.all(found.errors[:2] > 1.05 * dropped.errors[:2])


def test_a_bound_that_holds_nothing_changes_nothing(solution):
    there = problem(bounds=(LOWER, UPPER))
    found = jaxfit.covariance(there, solve(there))
    close(found.matrix, jaxfit.covariance(problem(), solution).matrix)
    assert not np.any(found.dropped)


# --- What the data do not determine ----------------------------------------------


def twofold(x, p):
    """Only a + 2 d is seen."""
    return (p["a"] + 2 * p["d"]) * jnp.exp(-p["b"] * x) + p["c"]


@pytest.fixture(scope="module")
def degenerate():
    start = {**START, "d": 0.3}
    there = jaxfit.curve_problem(twofold, X, Y, start, sigma=SIGMA)
    return there, solve(there)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_determined_is_infinite_and_named(degenerate, kind):
    there, solution = degenerate
    found = jaxfit.covariance(there, solution, kind=kind)
    lost = np.array([True, False, False, True])
    np.testing.assert_array_equal(found.undetermined, lost)
    assert int(found.rank) == 3
    np.testing.assert_array_equal(np.isposinf(found.matrix), np.diag(lost))
    unknown = (lost[:, None] | lost) & ~np.diag(lost)
    np.testing.assert_array_equal(np.isnan(found.matrix), unknown)
    np.testing.assert_array_equal(np.isposinf(found.errors), lost)
    # Along null rows no residual moves.
    x, unravel = ravel_pytree(solution.params)
    jacobian = jax.jacobian(lambda x: twofold(X, unravel(x)))(x)
    rows = np.asarray(found.null)
    assert np.sum(np.any(rows != 0, axis=1)) == 1
    np.testing.assert_allclose(jacobian @ rows.T, 0, atol=1e-6 * np.abs(rows).max())
    (text,) = found.null_directions()
    assert text == "a - 0.5 d"
    assert found.null_directions(["u", "v", "w", "z"]) == ("u - 0.5 z",)


@pytest.mark.parametrize("kind", KINDS)
def test_determined_parameters_have_the_errors_of_a_smaller_model(degenerate, kind):
    there, solution = degenerate
    p = solution.params
    formulas = Formulas({**p, "a": p["a"] + 2 * p["d"]})
    found = jaxfit.covariance(there, solution, kind=kind)
    expected = formulas.of(kind, "known")[1:, 1:]
    close(found.matrix[1:3, 1:3] / found.variance, expected, 1e-6)


def test_a_parameter_that_moves_nothing_is_a_direction_by_itself():
    def model(x, p):
        return p["a"] * jnp.exp(-p["b"] * x) + 0 * p["idle"]

    there = jaxfit.curve_problem(model, X, Y, {"a": 2.0, "b": 0.8, "idle": 7.0})
    found = jaxfit.covariance(there, solve(there))
    assert found.null_directions() == ("idle",)
    np.testing.assert_array_equal(found.undetermined, [False, False, True])
    assert np.all(np.isfinite(found.errors[:2]))
    assert np.isposinf(found.errors[2])


@pytest.mark.parametrize(
    ("direction", "text"),
    [
        ([2.0, -1.0, 0.0], "a - 0.5 b"),
        ([-1.0, 3.0, 0.0], "b - 0.33 a"),
        ([1.0, 0.0, 1.0], "a + c"),
        ([-1e-9, 1e-9, 0.0], "a - b"),
        ([0.2, 1.0, -0.5], "b - 0.5 c + 0.2 a"),
        ([1.0, 0.005, -0.999], "a - c"),
        ([0.0, -7.0, 0.0], "b"),
    ],
)
def test_directions_are_sums_with_the_largest_share_first(direction, text):
    directions = np.array([np.zeros(3), direction, np.zeros(3)])
    assert combinations(directions, "abc") == (text,)


# --- In words --------------------------------------------------------------------


def table(text):
    """Value, error and note of each parameter of a report, by name."""
    pattern = re.compile(r"^(\S+) +(\S+) \+- (\S+) *(.*)$", re.MULTILINE)
    rows = {name: rest for name, *rest in pattern.findall(text)}
    return {k: (float(v), float(e), note) for k, (v, e, note) in rows.items()}


def test_a_report_shows_estimates_errors_and_notes(solution, active, fixed):
    found = jaxfit.covariance(problem(), solution)
    text = found.report()
    assert text.splitlines()[0] == "covariance: gauss_newton, noise estimated; rank 3"
    rows = table(text)
    assert list(rows) == ["a", "b", "c"]
    for i, (name, (value, error, note)) in enumerate(rows.items()):
        close(value, solution.params[name], 1e-7)
        close(error, found.errors[i], 1e-3)
        assert note == ""
    rows = table(jaxfit.covariance(*active).report())
    assert rows["c"] == (TOP, 0.0, "at its bound, taken for known")
    assert rows["a"][2] == ""
    sandwich = jaxfit.covariance(*fixed, kind="sandwich").report()
    assert sandwich.splitlines()[0] == "covariance: sandwich; rank 2"
    assert table(sandwich)["c"] == (TOP, 0.0, "fixed")


def test_a_report_says_what_is_not_determined(degenerate):
    text = jaxfit.covariance(*degenerate).report()
    rows = table(text)
    assert [name for name, row in rows.items() if row[2] == "not determined"] == [
        "a",
        "d",
    ]
    assert rows["a"][1] == np.inf
    assert text.splitlines()[-1] == "residuals do not see a - 0.5 d"


def test_names_may_be_given(solution):
    found = jaxfit.covariance(problem(), solution)
    rows = table(found.report(["height", "rate", "background"]))
    assert list(rows) == ["height", "rate", "background"]
    assert list(rows.values()) == list(table(found.report()).values())
    for wrong in (["u", "v"], ["u", "u", "v"]):
        with pytest.raises(ValueError, match="`names` must be 3 different names"):
            found.report(wrong)
        with pytest.raises(ValueError, match="`names` must be 3 different names"):
            found.null_directions(wrong)
