"""NumPy functions in a fit: values, derivatives and exceptions through the host."""

import contextlib
import functools
import io
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from scipy.sparse.linalg import aslinearoperator

import jaxfit
from jaxfit import Problem, curve_fit, curve_problem, from_numpy, least_squares


M = 30
X = np.linspace(0.0, 3.0, M)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.05 * np.sin(17.0 * np.arange(M))
START = np.ones(3)
POINT = np.array([2.0, 1.5, 0.3])
BOUNDS = (np.array([0.0, 0.0, 0.0]), np.array([2.4, 9.0, 1.0]))  # the first is met


def decay(x, a, b, c):
    return a * np.exp(-b * x) + c


def slopes(x, a, b, c):
    e = np.exp(-b * x)
    return np.stack([e, -a * x * e, np.ones_like(x)], axis=1)


def residual(p, x, y):
    return decay(x, *p) - y


def residual_slopes(p, x, y):
    return slopes(x, *p)


host = from_numpy(decay)
host_jac = from_numpy(decay, jac=slopes)


def scipy_fit(**options):
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    options = {"method": "trf", "jac": slopes, **tight, **options}
    return scipy.optimize.curve_fit(decay, X, Y, **options)


def close(actual, desired, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def same(result, reference, rtol=1e-7):
    close(result[0], reference[0], rtol)
    close(result[1], reference[1], 10 * rtol, 1e-9 * np.abs(reference[1]).max())


# --- As a function of JAX ----------------------------------------------------------


@pytest.mark.smoke
def test_values_are_those_of_the_function():
    expected = decay(X, *POINT)
    for value in (
        host(X, *POINT),
        jax.jit(host)(X, *POINT),
        jax.jit(lambda p: host(X, *p))(POINT),
    ):
        np.testing.assert_array_equal(value, expected)
    points = np.stack([POINT, START, 2 * POINT])
    lanes = jax.jit(jax.vmap(lambda p: host(X, *p)))(points)
    np.testing.assert_array_equal(lanes, [decay(X, *p) for p in points])
    assert host.__name__ == "decay" and host.__wrapped__ is decay


@pytest.mark.parametrize(
    ("options", "rtol"),
    [
        ({}, 1e-6),
        ({"derivative": "3-point"}, 1e-9),
        ({"derivative": "cs"}, 1e-14),
        ({"diff_step": 1e-3}, 2e-3),
        ({"jac": slopes}, 1e-15),
        ({"jac": lambda *a: scipy.sparse.csr_array(slopes(*a))}, 1e-15),
        ({"jac": lambda *a: aslinearoperator(slopes(*a))}, 1e-15),
    ],
    ids=["2-point", "3-point", "cs", "step", "jac", "sparse", "operator"],
)
def test_derivatives(options, rtol):
    f = from_numpy(decay, **options)

    def of_vector(p):
        return f(X, *p)

    exact = slopes(X, *POINT)
    # By all parameters, and by one alone, the others being constants.
    j = jax.jit(jax.jacfwd(of_vector))(POINT)
    close(j, exact, rtol, 10 * rtol)
    slope = jax.jit(jax.jacfwd(lambda b: f(X, POINT[0], b, POINT[2])))(POINT[1])
    close(slope, exact[:, 1], rtol, 10 * rtol)
    if options.get("jac") is slopes:
        close(jax.jit(jax.jacrev(of_vector))(POINT), exact, rtol, 10 * rtol)
    if "diff_step" in options:
        assert np.abs(slope - exact[:, 1]).max() > 1e-6


def test_derivatives_of_a_residual_are_by_its_first_argument():
    for options, rtol in (({}, 1e-6), ({"jac": residual_slopes}, 1e-14)):
        f = from_numpy(residual, **options)
        j = jax.jit(jax.jacfwd(f))(POINT, X, Y)
        close(j, slopes(X, *POINT), rtol, 10 * rtol)


def test_the_shape_is_asked_once_or_told():
    calls = []

    def f(x, a):
        calls.append(x)
        return a * x

    traced = from_numpy(f)
    shape = jax.eval_shape(lambda a: traced(X, a), 1.0)
    assert shape.shape == (M,) and len(calls) == 1
    told = from_numpy(f, shape=(M,))
    assert jax.eval_shape(lambda a: told(X, a), 1.0).shape == (M,)
    assert len(calls) == 1
    wrong = from_numpy(f, shape=(M + 1,))
    with pytest.raises(Exception, match=r"returned shape \(30,\).*\(31,\)"):
        jax.jit(lambda a: wrong(X, a))(1.0).block_until_ready()


# --- In curve_fit ------------------------------------------------------------------


@pytest.mark.parametrize("model", [host, host_jac], ids=["differences", "jac"])
def test_a_fit_is_scipys(model):
    rtol = 1e-6 if model is host else 1e-8
    result = curve_fit(model, X, Y)
    same(result, scipy_fit(), rtol)
    assert result.names == ("a", "b", "c")
    close(result.fitted, decay(X, *result.popt), 1e-15)
    close(result.predict(X[:4]), decay(X[:4], *result.popt), 1e-15)
    gradient = slopes(X, *result.popt)
    half = (result.confidence_band()[1] - result.confidence_band()[0]) / 2
    error = np.sqrt(np.einsum("mi,ij,mj->m", gradient, result.pcov, gradient))
    close(half / half[0], error / error[0], 1e-6)


def test_other_lengths_and_forms_of_data():
    """No padding: the function sees the data as they are."""
    for m in (20, 21):
        x, y = X[:m], Y[:m]
        seen = []

        def model(x, a, b, c, seen=seen):
            seen.append(x)
            return decay(x, a, b, c)

        result = curve_fit(from_numpy(model), x, y, p0=START)
        reference = scipy.optimize.curve_fit(decay, x, y, jac=slopes, xtol=1e-14)
        same(result, reference, 1e-5)
        assert all(type(a) is np.ndarray and a.shape == (m,) for a in seen)
        np.testing.assert_array_equal(seen, [x] * len(seen))


def test_predictors_come_as_they_were_given():
    plane = np.stack([X, np.cos(X)])

    def model(x, a, b):
        assert x.shape == (2, M)
        return a * x[0] + b * x[1]

    result = curve_fit(from_numpy(model), plane, Y)
    best, *_ = np.linalg.lstsq(plane.T, Y)
    close(result.popt, best, 1e-7)


def test_fixed_parameters_and_bounds_with_a_jacobian():
    result = curve_fit(host_jac, X, Y, fixed={"b": 1.25})
    reference = scipy.optimize.curve_fit(
        lambda x, a, c: decay(x, a, 1.25, c), X, Y, xtol=1e-14
    )
    close(result.popt[[0, 2]], reference[0], 1e-7)
    close(result.pcov[np.ix_([0, 2], [0, 2])], reference[1], 1e-5)
    bounded = curve_fit(host_jac, X, Y, bounds=BOUNDS)
    same(bounded, scipy_fit(bounds=BOUNDS), 1e-7)


@pytest.mark.parametrize("derivative", ["2-point", "3-point"])
def test_no_step_leaves_the_bounds(derivative):
    """The function is never asked outside, where it may not be defined."""
    seen = []

    def model(x, a, b, c):
        seen.append([a, b, c])
        return decay(x, a, b, c)

    start = [2.4, 9.0, 0.0]  # on three bounds
    f = from_numpy(model, derivative=derivative)
    result = curve_fit(f, X, Y, p0=start, bounds=BOUNDS)
    seen = np.array(seen)
    assert np.all(seen >= BOUNDS[0]) and np.all(seen <= BOUNDS[1])
    assert len(seen) > result.nfev + 3 * result.njev - 3
    same(result, scipy_fit(bounds=BOUNDS, p0=[2, 1, 0.5]), 1e-5)


def test_a_single_precision_model_takes_longer_steps():
    """Differences of float32 values need steps of sqrt(eps) of float32."""

    def model(x, a, b, c):
        return decay(x, a, b, c).astype(np.float32)

    result = curve_fit(from_numpy(model), X, Y, p0=[2.0, 1.0, 0.5])
    same(result, scipy_fit(), 5e-3)


# --- Precision ---------------------------------------------------------------------


@pytest.fixture
def single_precision():
    """JAX as it is before anyone asks for double precision."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("verbose", [0, 1])
def test_every_digit_of_the_arguments_arrives(single_precision, verbose):
    """Callbacks run in threads of their own, that do not know the caller's setting."""
    threads, kinds = set(), set()
    x = X + 1e-12

    def exact(t):
        np.testing.assert_array_equal(t, x)

    def model(t, a, b, c):
        threads.add(threading.get_ident())
        kinds.update(np.asarray(v).dtype for v in (t, a, b, c))
        exact(t)
        return decay(t, a, b, c)

    def jac(t, a, b, c):
        exact(t)
        return slopes(t, a, b, c)

    with contextlib.redirect_stdout(io.StringIO()):
        result = curve_fit(from_numpy(model, jac=jac), x, Y, verbose=verbose)
    assert kinds == {np.dtype(np.float64)}
    close(result.popt, scipy_fit()[0], 1e-8)
    r = decay(x, *result.popt) - Y
    close(result.cost, 0.5 * r @ r, 1e-14)
    assert np.abs(slopes(x, *result.popt).T @ r).max() < 1e-12
    assert not jax.config.jax_enable_x64


# --- In least_squares and in the kernel --------------------------------------------


def counting(fn, log):
    @functools.wraps(fn)
    def counted(*args):
        log.append(np.array(args[0]))
        return fn(*args)

    return counted


def test_no_value_is_asked_for_twice():
    """The host is called nfev times, and once more for the Jacobian that is shown."""
    values, jacobians = [], []
    fun = from_numpy(
        counting(residual, values), jac=counting(residual_slopes, jacobians)
    )
    result = least_squares(fun, START, args=(X, Y))
    assert result.success
    assert len(values) == result.nfev
    assert result.njev <= len(jacobians) <= result.njev + 1
    assert len({v.tobytes() for v in values}) == len(values)
    reference = scipy.optimize.least_squares(
        residual, START, residual_slopes, args=(X, Y), x_scale="jac"
    )
    assert (result.nfev, result.njev) == (reference.nfev, reference.njev)
    close(result.x, reference.x, 1e-7)
    close(result.jac, slopes(X, *result.x), 1e-14)
    close(result.fun, residual(result.x, X, Y), 1e-13, 1e-15)


def test_differences_cost_one_call_for_each_parameter():
    values = []
    fun = from_numpy(counting(residual, values))
    result = least_squares(fun, START, args=(X, Y))
    close(result.x, scipy_fit()[0], 1e-5)
    # Those of the last Jacobian are made once more, to be shown in the result.
    least = result.nfev + 3 * result.njev
    assert least <= len(values) <= least + 4


def test_a_numpy_jacobian_of_a_jax_residual():
    def fun(p, x, y):
        return p[0] * jnp.exp(-p[1] * x) + p[2] - y

    result = least_squares(fun, START, from_numpy(residual_slopes), args=(X, Y))
    close(result.x, scipy_fit()[0], 1e-6)


def test_the_kernel_takes_it_too():
    """Under jit and vmap, as a model and as a residual, with parameters as a PyTree."""

    def model(x, p):
        return decay(x, p["amp"], *p["rest"])

    def jac(x, p):
        return slopes(x, p["amp"], *p["rest"])

    params = {"amp": 1.0, "rest": np.ones(2)}
    scales = jnp.array([1.0, 2.0])

    def fit(scale):
        problem = curve_problem(from_numpy(model, jac=jac), X, scale * Y, params)
        solution = jaxfit.solve(problem)
        return solution.params

    lanes = jax.jit(jax.vmap(fit))(scales)
    best = scipy_fit()[0]
    close(lanes["amp"], best[0] * scales, 1e-7)
    close(lanes["rest"][:, 0], best[[1, 1]], 1e-7)
    close(lanes["rest"][:, 1], best[2] * scales, 1e-7)
    plain = from_numpy(lambda p, data: residual(p, *data), derivative="3-point")
    problem = Problem(plain, START, (X, Y))
    close(jaxfit.solve(problem).params, best, 1e-6)


def test_a_failure_leaves_nothing_behind():
    fails = [True]

    def model(x, a, b, c):
        if fails[0] and a != 1:
            raise LookupError("no such value")
        return decay(x, a, b, c)

    f = from_numpy(model)
    for _ in range(2):
        with pytest.raises(LookupError, match="no such value"):
            curve_fit(f, X, Y)
    fails[0] = False
    same(curve_fit(f, X, Y), scipy_fit(), 1e-6)


def test_a_shape_that_changes_is_refused():
    def model(x, a, b, c):
        return decay(x, a, b, c)[: M if a == 1 else M - 1]

    with pytest.raises(ValueError, match=r"`model` returned shape \(29,\).*\(30,\)"):
        curve_fit(from_numpy(model), X, Y)
