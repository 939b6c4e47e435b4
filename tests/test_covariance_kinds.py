"""Covariances of each kind against NumPy, SciPy and the fits that they stand for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import jaxfit
from jaxfit import TRF


M = 18
X = np.linspace(0.0, 3.0, M)
RNG = np.random.default_rng(3)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.08 * RNG.standard_normal(M)
Y[4] += 0.3
SIGMA = np.linspace(0.06, 0.12, M)
MASK = np.arange(M) % 7 != 5
START = {"a": 2.0, "b": 1.0, "c": 0.1}
TIGHT = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)
MAD = 1.482602218505602
KINDS = ["gauss_newton", "hessian", "sandwich"]
ALL = np.ones(M, bool)


def decay(x, p):
    return p["a"] * jnp.exp(-p["b"] * x) + p["c"]


def problem(y=Y, start=START, **options):
    return jaxfit.curve_problem(decay, X, y, start, sigma=SIGMA, **options)


def solve(there):
    return jaxfit.solve(there, TIGHT)


def close(actual, desired, rtol=1e-7, atol=1e-13):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


class Formulas:
    """What the covariances of `decay` are, from closed forms at given parameters.

    Of a loss: the slope psi of the cost by a residual and its derivative psi'. Only
    the parameters in `free` vary, and only the rows in `used` count.
    """

    def __init__(self, params, y=Y, free=(0, 1, 2), used=ALL, scale=None, dof=None):
        a, b, c = (float(params[k]) for k in "abc")
        x, sigma, free = X[used], SIGMA[used], list(free)
        e = np.exp(-b * x)
        j = np.stack([e, -a * x * e, np.ones_like(x)], axis=1) / sigma[:, None]
        r = (a * e + c - y[used]) / sigma
        z = 0 if scale is None else (r / scale) ** 2  # of the loss "soft_l1"
        psi, slope = r / np.sqrt(1 + z), (1 + z) ** -1.5 * np.ones_like(r)
        second = np.zeros((3, 3))
        second[0, 1] = second[1, 0] = psi @ (-x * e / sigma)
        second[1, 1] = psi @ (a * x**2 * e / sigma)
        grid = np.ix_(free, free)
        fisher = ((j.T * slope) @ j)[grid]
        exact = fisher + second[grid]
        self.dof = x.size - len(free) if dof is None else dof
        self.estimated = psi @ psi / self.dof / slope.mean()
        self.robust = (MAD * np.median(np.abs(r))) ** 2 * x.size / self.dof
        weighted = (j * np.sqrt(slope)[:, None])[:, free]
        q, _ = np.linalg.qr(weighted)
        scores = (j * (psi / (1 - np.sum(q**2, axis=1)))[:, None])[:, free]
        bread = np.linalg.inv(exact)
        self.grid = grid
        self.gauss_newton = self.full(np.linalg.inv(fisher))
        self.hessian = self.full(bread)
        self.sandwich = self.full(bread @ scores.T @ scores @ bread)

    def full(self, matrix):
        whole = np.zeros((3, 3))
        whole[self.grid] = matrix
        return whole

    def of(self, kind, noise=None):
        """The matrix of a kind, where the noise is estimated unless it is said."""
        if kind == "sandwich":
            return self.sandwich
        known = {"known": 1.0, "robust": self.robust, None: self.estimated}
        return getattr(self, kind) * known[noise]


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
    # A linear model has no curvature: the other two kinds are one.
    for kind in ("gauss_newton", "hessian"):
        found = jaxfit.covariance(there, solution, kind=kind)
        close(found.matrix, e @ e / (M - 3) * bread, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_robust_loss(kind):
    """The noise is Huber's sum(psi^2) / dof / mean(psi'), and H has all curvature."""
    there = problem(loss="soft_l1", f_scale=0.8)
    solution = solve(there)
    formulas = Formulas(solution.params, scale=0.8)
    found = jaxfit.covariance(there, solution, kind=kind)
    close(found.matrix, formulas.of(kind))
    if kind == "gauss_newton":
        robust = jaxfit.covariance(there, solution, noise="robust")
        close(robust.matrix, formulas.of(kind, "robust"))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_data_count_for_nothing(kind):
    there = problem(np.where(MASK, Y, np.nan), mask=MASK)
    solution = solve(there)
    formulas = Formulas(solution.params, used=MASK)
    close(jaxfit.covariance(there, solution, kind=kind).matrix, formulas.of(kind))
    if kind == "gauss_newton":
        robust = jaxfit.covariance(there, solution, noise="robust")
        close(robust.matrix, formulas.of(kind, "robust"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_with_a_matrix(solution, kind):
    found = jaxfit.covariance(problem(), solution, kind=kind)
    size = np.sqrt(np.diagonal(found.matrix))
    close(found.errors, size)
    close(found.correlation, found.matrix / np.outer(size, size))
    close(found.root.T @ found.root, found.matrix)
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
    close(found.root.T @ found.root, found.matrix)


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


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_can_be_disregarded(active, kind):
    there, solution = active
    found = jaxfit.covariance(there, solution, kind=kind, active="keep")
    close(found.matrix, Formulas(solution.params).of(kind))
    assert not np.any(found.dropped)
    assert int(found.rank) == 3
    if kind != "sandwich":
        dropped = jaxfit.covariance(there, solution, kind=kind)
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
    small = {**p, "a": p["a"] + 2 * p["d"]}
    noise = None if kind == "sandwich" else "known"
    expected = Formulas(small).of(kind, noise)[1:, 1:]
    found = jaxfit.covariance(there, solution, kind=kind, noise=noise)
    close(found.matrix[1:3, 1:3], expected, 1e-6)
    free = jaxfit.covariance(there, solution, kind=kind, noise=noise, active="keep")
    close(free.matrix[1:3, 1:3], expected, 1e-6)


def test_a_parameter_that_moves_nothing_is_a_direction_by_itself():
    def model(x, p):
        return p["a"] * jnp.exp(-p["b"] * x) + 0 * p["idle"]

    there = jaxfit.curve_problem(model, X, Y, {"a": 2.0, "b": 0.8, "idle": 7.0})
    found = jaxfit.covariance(there, solve(there))
    assert found.null_directions() == ("idle",)
    np.testing.assert_array_equal(found.undetermined, [False, False, True])
    assert np.all(np.isfinite(found.errors[:2]))
    assert np.isposinf(found.errors[2])


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


# --- A function like any other ---------------------------------------------------


def all_kinds(y):
    there = problem(y)
    solution = solve(there)
    return solution.params, {
        (kind, noise): jaxfit.covariance(there, solution, kind=kind, noise=noise).matrix
        for kind, noise in [
            ("gauss_newton", "estimated"),
            ("gauss_newton", "robust"),
            ("hessian", "known"),
            ("sandwich", None),
        ]
    }


LANES = 6
lanes = jax.jit(jax.vmap(all_kinds))


def test_lanes_equal_the_formulas_of_each():
    data = Y + 0.05 * np.random.default_rng(5).standard_normal((LANES, M))
    params, matrices = lanes(data)
    for i, y in enumerate(data):
        formulas = Formulas({k: v[i] for k, v in params.items()}, y)
        for (kind, noise), matrix in matrices.items():
            asked = None if noise == "estimated" else noise
            close(matrix[i], formulas.of(kind, asked), 1e-6)


def test_the_derivative_by_the_data_is_that_of_finite_differences():
    rows, step = [2, 4, 11], 1e-5
    there = np.stack([Y + s * step * np.eye(M)[i] for s in (1, -1) for i in rows])
    _, matrices = lanes(there)
    slopes = jax.jit(jax.jacfwd(lambda y: all_kinds(y)[1]))(Y)
    for key, slope in slopes.items():
        up, down = matrices[key][:3], matrices[key][3:]
        expected = np.moveaxis((up - down) / (2 * step), 0, -1)
        assert np.abs(expected).max() > 1e-3 * np.abs(up).max()
        size = np.abs(expected).max()
        np.testing.assert_allclose(slope[..., rows], expected, atol=1e-5 * size)


def test_a_jitted_function_may_close_over_a_solution(solution):
    there = problem()
    inside = jax.jit(lambda: jaxfit.covariance(there, solution).matrix)()
    close(inside, jaxfit.covariance(there, solution).matrix, 1e-12)


def test_in_single_precision():
    def single(tree):
        return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)

    there = jaxfit.curve_problem(
        decay, *single((X, Y, START)), sigma=SIGMA.astype(np.float32)
    )
    solution = jaxfit.solve(there)
    expected = Formulas(solution.params).of("sandwich")
    found = jaxfit.covariance(there, solution, kind="sandwich")
    assert found.matrix.dtype == jnp.float32
    close(found.errors, np.sqrt(np.diagonal(expected)), 2e-3)


def test_the_solver_tells_how_to_differentiate():
    """A model that JAX cannot see into has its Jacobian from a function."""

    def hidden(x, p):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        values = p["a"], p["b"], p["c"]
        return jax.pure_callback(
            lambda x, a, b, c: np.asarray(a * np.exp(-b * x) + c),
            shape,
            x,
            *values,
            vmap_method="sequential",
        )

    def jacobian(x, p):
        e = jnp.exp(-p["b"] * x)
        return {"a": e, "b": -p["a"] * x * e, "c": jnp.ones_like(x)}

    there = jaxfit.curve_problem(hidden, X, Y, START, sigma=SIGMA)
    solver = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15, jacobian=jacobian)
    solution = jaxfit.solve(there, solver)
    formulas = Formulas(solution.params)
    close(jaxfit.covariance(there, solution).matrix, formulas.of("gauss_newton"))
    robust = jaxfit.covariance(there, solution, noise="robust", solver=solver)
    close(robust.matrix, formulas.of("gauss_newton", "robust"))
    found = jaxfit.influence(there, solution, solver=solver)
    close(found.leverage.sum(), 3)
