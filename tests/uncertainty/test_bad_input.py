"""What a caller of covariance, influence, goodness_of_fit and propagate can get wrong.

Every message names the argument and a way out. Inside a trace nothing can be raised on
values: what is asked of a fit that failed is NaN there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import complaint

import jaxfit
from jaxfit import TRF, Status


pytestmark = pytest.mark.usefixtures("without_type_checks")

M = 12
X = np.linspace(0.0, 2.0, M)
Y = 2.0 * np.exp(-1.3 * X) + 0.05 * np.cos(7 * X)
START = np.ones(2)
DOORS = ["covariance", "influence", "goodness_of_fit"]
NAN = np.nan


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x)


def problem(y=Y, mask=None):
    """Masked, always: whether none, some or most data count is one program."""
    mask = np.ones(M, bool) if mask is None else mask
    return jaxfit.curve_problem(decay, X, y, START, mask=mask)


@pytest.fixture(scope="module")
def solution():
    return jaxfit.solve(problem())


@pytest.fixture(scope="module")
def unfinished():
    """A fit that was stopped after one step."""
    solution = jaxfit.solve(problem(), TRF(max_steps=1))
    assert solution.status == Status.MAX_STEPS
    return solution


@pytest.fixture(scope="module")
def covariance(solution):
    return jaxfit.covariance(problem(), solution)


# --- The fit ---------------------------------------------------------------------


@pytest.mark.parametrize("name", DOORS)
def test_the_fit_that_the_others_spoil_is_fine(solution, name):
    found = getattr(jaxfit, name)(problem(), solution)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found)[:1])


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("thing", [3, None, decay, "problem"])
def test_a_problem_must_be_one(solution, name, thing):
    text = f"`problem` must be a jaxfit.Problem, got {type(thing).__name__}"
    with pytest.raises(TypeError, match=complaint(text)):
        getattr(jaxfit, name)(thing, solution)


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("thing", [3, None, START, {"params": START}])
def test_a_solution_must_be_one(name, thing):
    text = "`solution` must be a jaxfit.Solution, as jaxfit.solve returns it, got "
    with pytest.raises(TypeError, match=complaint(text + type(thing).__name__)):
        getattr(jaxfit, name)(problem(), thing)


@pytest.mark.parametrize("name", DOORS)
def test_a_solution_must_be_of_the_problem(solution, name):
    door = getattr(jaxfit, name)
    other = jaxfit.curve_problem(decay, X, Y, (1.0, 1.0))
    with pytest.raises(ValueError, match=r"`solution.params` has structure .* problem"):
        door(other, solution)
    longer = jaxfit.curve_problem(decay, X, Y, np.ones(3))
    text = "`solution.params` has 2 numbers but the problem has 3"
    with pytest.raises(ValueError, match=text):
        door(longer, solution)


@pytest.mark.parametrize("name", DOORS)
def test_a_fit_must_have_converged(unfinished, name):
    text = (
        f"jaxfit.{name} is of a fit that converged ... MAX_STEPS ... The maximum number"
        " ... jaxfit.diagnose(problem, solution) may tell why"
    )
    with pytest.raises(ValueError, match=complaint(text)):
        getattr(jaxfit, name)(problem(), unfinished)


def few():
    """Two data for two parameters, which no noise is left over from."""
    there = problem(mask=np.arange(M) < 2)
    solution = jaxfit.solve(there)
    assert solution.success
    assert int(solution.dof) == 0
    return there, solution


@pytest.mark.parametrize("name", ["covariance", "influence"])
def test_noise_is_estimated_from_more_data_than_parameters(name):
    door, fit = getattr(jaxfit, name), few()
    text = f"jaxfit.{name} needs more data than free parameters ... dof is 0: "
    for noise in ("estimated", "robust"):
        with pytest.raises(ValueError, match=complaint(text + "give noise='known'")):
            door(*fit, noise=noise)
    known = door(*fit, noise="known")
    sizes = known.errors if name == "covariance" else known.leverage[:2]
    assert np.all(np.isfinite(sizes))
    assert np.all(np.asarray(sizes) > 0)


def test_errors_of_two_known_data_are_those_of_two_equations():
    """The way out that the message names leads to the right numbers."""
    there, solution = few()
    a, b = (float(v) for v in solution.params)
    e = np.exp(-b * X[:2])
    inverse = np.linalg.inv(np.stack([e, -a * X[:2] * e], axis=1))
    found = jaxfit.covariance(there, solution, noise="known")
    np.testing.assert_allclose(found.matrix, inverse @ inverse.T, rtol=1e-6)


def test_a_sandwich_of_no_residuals_is_refused():
    """Each residual is then 0 and says nothing about its variance."""
    with pytest.raises(ValueError, match=r"dof is 0"):
        jaxfit.covariance(*few(), kind="sandwich")


def test_goodness_is_not_promised_where_known_noise_does_not_help():
    """No residual is left to judge, whatever is known of the noise."""
    for noise in ("known", "estimated"):
        with pytest.raises(ValueError, match=r"dof is 0") as caught:
            jaxfit.goodness_of_fit(*few(), noise=noise)
        assert "noise='known'" not in str(caught.value)


@pytest.mark.parametrize("name", ["covariance", "influence"])
def test_a_matrix_free_fit_has_no_curvature(name):
    matrix_free = jaxfit.solve(problem(), TRF(linear_solver="matrix_free"))
    assert matrix_free.success
    text = f"jaxfit.{name} needs: solve again ... TRF(linear_solver='qr')"
    with pytest.raises(ValueError, match=complaint(text)):
        getattr(jaxfit, name)(problem(), matrix_free)


def test_goodness_of_a_matrix_free_fit_is_that_of_any_other(solution):
    """It looks at residuals only."""
    matrix_free = jaxfit.solve(problem(), TRF(linear_solver="matrix_free"))
    found = jaxfit.goodness_of_fit(problem(), matrix_free)
    same = jaxfit.goodness_of_fit(problem(), solution)
    np.testing.assert_allclose(found.chi2, same.chi2, rtol=1e-6)
    np.testing.assert_allclose(found.bic, same.bic, rtol=1e-6)


@pytest.mark.parametrize("name", DOORS)
def test_a_batch_is_taken_by_vmap(solution, name):
    """The message says so, and it works."""
    door = getattr(jaxfit, name)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), (problem(), solution))
    text = f"`solution` holds a batch of shape (2,) ... jax.vmap of jaxfit.{name}"
    with pytest.raises(ValueError, match=complaint(text)):
        door(two[0], two[1])
    lanes, alone = jax.vmap(door)(*two), door(problem(), solution)
    for both, one in zip(jax.tree.leaves(lanes), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(both[1], one, rtol=1e-6, atol=1e-9)


# --- Options ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("covariance", {"kind": "hc3"}, "`kind` ... 'sandwich' ... got 'hc3'"),
        ("covariance", {"kind": None}, "`kind` must be one of ... got None"),
        ("covariance", {"noise": "guess"}, "`noise` ... 'robust' ... got 'guess'"),
        ("covariance", {"active": "ignore"}, "`active` ... 'keep' ... got 'ignore'"),
        ("covariance", {"active": True}, "`active` must be one of ... got True"),
        (
            "covariance",
            {"kind": "hessian", "noise": "sandwich"},
            "`noise` must be one of ... got 'sandwich'",
        ),
        ("influence", {"noise": "guess"}, "`noise` ... 'robust' ... got 'guess'"),
        ("influence", {"noise": None}, "`noise` must be one of ... got None"),
        ("goodness_of_fit", {"noise": "unknown"}, "`noise` ... 'known' ... got"),
    ],
)
def test_choices(solution, name, options, text):
    with pytest.raises(ValueError, match=complaint(text)):
        getattr(jaxfit, name)(problem(), solution, **options)


@pytest.mark.parametrize("noise", ["known", "estimated", "robust"])
def test_a_sandwich_takes_no_noise(solution, noise):
    text = f"`noise` is {noise!r}, but a sandwich ... leave it out"
    with pytest.raises(ValueError, match=complaint(text)):
        jaxfit.covariance(problem(), solution, kind="sandwich", noise=noise)


# --- What is propagated, and compared --------------------------------------------


def test_a_covariance_must_be_one(covariance):
    for thing in (covariance.matrix, np.asarray(covariance.matrix), None):
        text = (
            f"`covariance` must be a jaxfit.Covariance, got {type(thing).__name__}: "
            "jaxfit.covariance(problem, solution)"
        )
        with pytest.raises(TypeError, match=complaint(text)):
            jaxfit.propagate(lambda p: p[0], thing)


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (3, "`fn` must be callable, got int"),
        (None, "`fn` must be callable, got NoneType"),
        (lambda p: p[0] * 1j, "`fn` must return real numbers, got complex128"),
        (lambda p: {"a": p[0], "n": 3}, "`fn` must return real numbers, got int"),
        (lambda p: p[0] > 0, "`fn` must return real numbers, got bool"),
    ],
)
def test_what_is_propagated_must_be_a_function_to_real_numbers(covariance, fn, text):
    with pytest.raises(TypeError, match=complaint(text)):
        jaxfit.propagate(fn, covariance)


@pytest.mark.parametrize("params", [np.ones(3), (1.0, 1.0), {"a": 1.0, "b": 2.0}])
def test_values_are_taken_at_parameters_like_those_of_the_fit(covariance, params):
    with pytest.raises(ValueError, match="`params` has"):
        jaxfit.propagate(lambda p: 2 * jax.tree.leaves(p)[0], covariance, params)


@pytest.mark.parametrize("style", ["long", None, ""])
def test_a_style_that_does_not_exist(covariance, style):
    text = f"`style` must be one of ('pm', 'short'), got {style!r}"
    with pytest.raises(ValueError, match=complaint(text)):
        jaxfit.pretty(1.0, 0.1, style)
    with pytest.raises(ValueError, match=complaint(text)):
        jaxfit.propagate(lambda p: p, covariance).pretty(style)


def test_only_solutions_are_compared(solution):
    with pytest.raises(
        TypeError, match=r"`simple` must be a jaxfit.Solution, .* got int"
    ):
        jaxfit.compare_models(3, solution)
    with pytest.raises(
        TypeError, match=r"`larger` must be a jaxfit.Solution, .* got P"
    ):
        jaxfit.compare_models(solution, problem())
    with pytest.raises(ValueError, match=r"`noise` must be one of \('estimated', 'k"):
        jaxfit.compare_models(solution, solution, noise="unknown")


# --- Inside a trace --------------------------------------------------------------


def test_of_a_fit_that_failed_everything_is_nan():
    """While the lane beside it, which did not, has its numbers."""

    @jax.jit
    @jax.vmap
    def all_of(y):
        there = problem(y)
        solution = jaxfit.solve(there)
        c = jaxfit.covariance(there, solution)
        s = jaxfit.covariance(there, solution, kind="sandwich")
        found = jaxfit.influence(there, solution)
        good = jaxfit.goodness_of_fit(there, solution, noise="known")
        return solution.status, {
            "covariance": (c.matrix, c.errors, c.variance),
            "sandwich": s.matrix,
            "propagate": jaxfit.propagate(lambda p: p[0] * p[1], c).errors,
            "influence": (found.leverage, found.deleted, found.change),
            "goodness": (good.chi2, good.p_value, good.bic, good.runs_p),
        }

    status, found = all_of(np.stack([Y, np.where(np.arange(M) == 3, NAN, Y)]))
    assert status[0] > 0
    assert status[1] == Status.NONFINITE_START
    for name, part in found.items():
        for leaf in jax.tree.leaves(part):
            assert np.all(np.isfinite(leaf[0])), name
            assert np.all(np.isnan(leaf[1])), name


def test_without_degrees_of_freedom_the_noise_is_nan_and_the_rest_is_not():
    """A mask may leave as many data as parameters, which only a value tells."""

    @jax.jit
    def all_of(mask):
        there = problem(mask=mask)
        solution = jaxfit.solve(there)
        return [
            jaxfit.covariance(there, solution, noise=noise).errors
            for noise in ("estimated", "robust", "known")
        ]

    estimated, robust, known = all_of(np.arange(M) < 2)
    assert np.all(np.isnan([estimated, robust]))
    assert np.all(np.isfinite(known))
    full = all_of(np.ones(M, bool))
    assert np.all(np.isfinite(full))


def test_of_an_unfinished_fit_everything_is_nan(unfinished):
    """The same solution that is refused outside of a trace."""

    @jax.jit
    def all_of(there, solution):
        return (
            jaxfit.covariance(there, solution).errors,
            jaxfit.influence(there, solution).leverage,
            jaxfit.goodness_of_fit(there, solution).chi2,
            jaxfit.compare_models(solution, solution).statistic,
        )

    for part in all_of(problem(), unfinished):
        assert np.all(np.isnan(part))
