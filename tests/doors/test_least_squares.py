"""`least_squares`: SciPy's answers for SciPy's calls."""

import contextlib
import functools
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.sparse.linalg import LinearOperator

from jaxfit import from_numpy, least_squares


M = 40
X = np.linspace(0.0, 4.0, M)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.05 * np.sin(17.0 * np.arange(M))
OUTLIERS = Y + np.where(np.isin(np.arange(M), [7, 20]), 0.8, 0.0)
START = np.ones(3)
BOUNDS = (np.array([0.0, 0.0, 0.0]), np.array([2.4, 9.0, 1.0]))  # the first is met
TIGHT = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-12)


def fun(p, x, y, *, xp=jnp):
    return p[0] * xp.exp(-p[1] * x) + p[2] - y


def slopes(p, x, y, *, xp=jnp):
    e = xp.exp(-p[1] * x)
    return xp.stack([e, -p[0] * x * e, xp.ones_like(x)], axis=1)


def rosenbrock(p, xp=jnp):
    return xp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])


numpy_fun = functools.partial(fun, xp=np)
numpy_slopes = functools.partial(slopes, xp=np)


def scipy_fit(x0=START, y=Y, **options):
    """SciPy's own path, with the scaling that is jaxfit's default."""
    options = {"args": (X, y), "x_scale": "jac", **options}
    return scipy.optimize.least_squares(numpy_fun, x0, numpy_slopes, **options)


def close(actual, desired, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def agree(ours, theirs, rtol=1e-7, exact_jac=True):
    """Every field of the result, those that vanish at the minimum in its own scale."""
    close(ours.x, theirs.x, rtol)
    close(ours.cost, theirs.cost, 1e-9)
    close(ours.fun, theirs.fun, 0, 10 * rtol * np.abs(theirs.fun).max())
    if exact_jac:
        close(ours.jac, theirs.jac, 0, 10 * rtol * np.abs(theirs.jac).max())
    steepness = np.linalg.norm(theirs.jac, axis=0) * np.linalg.norm(theirs.fun)
    close(ours.grad, theirs.grad, 0, 10 * rtol * steepness.max())
    close(ours.optimality, theirs.optimality, 0, 10 * rtol * steepness.max())
    np.testing.assert_array_equal(ours.active_mask, theirs.active_mask)
    assert ours.success and theirs.success


def text(call, *args, **options):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = call(*args, **options)
    return result, out.getvalue()


@pytest.fixture(scope="module")
def plain():
    return least_squares(fun, START, args=(X, Y))


# --- SciPy's results ---------------------------------------------------------------


@pytest.mark.smoke
def test_the_result_is_scipys(plain):
    theirs = scipy_fit()
    agree(plain, theirs)
    assert set(theirs) <= set(plain)
    assert isinstance(plain, scipy.optimize.OptimizeResult)
    for name in theirs:
        ours, other = plain[name], theirs[name]
        assert np.shape(ours) == np.shape(other), name
        assert type(ours) is type(other) or isinstance(other, np.number | int), name
    close(plain.fun, numpy_fun(plain.x, X, Y), 1e-13, 1e-15)
    close(plain.jac, numpy_slopes(plain.x, X, Y), 1e-13)
    close(plain.cost, 0.5 * plain.fun @ plain.fun, 1e-13)
    close(plain.grad, plain.jac.T @ plain.fun, 1e-6, 1e-14)
    assert plain.optimality == np.abs(plain.grad).max()
    assert plain.status in (1, 2, 3, 4)


def test_the_path_is_scipys(plain):
    """As many evaluations of fun and jac, from several starts."""
    for start in (START, [2.0, 1.0, 0.0], [4.0, 2.0, 1.0]):
        ours = least_squares(fun, start, args=(X, Y))
        theirs = scipy_fit(start)
        assert (ours.nfev, ours.njev) == (theirs.nfev, theirs.njev)
        close(ours.x, theirs.x, 1e-7)
    # A curved valley, where steps are refused and the radius shrinks.
    ours = least_squares(rosenbrock, [-1.2, 1.0])
    theirs = scipy.optimize.least_squares(
        functools.partial(rosenbrock, xp=np), [-1.2, 1.0], x_scale="jac"
    )
    close(ours.x, [1.0, 1.0], 1e-7)
    assert abs(ours.nfev - theirs.nfev) <= 2 and ours.nfev > ours.njev > 5


@pytest.mark.parametrize("method", ["trf", "dogbox"])
def test_bounds(method):
    ours = least_squares(fun, START, bounds=BOUNDS, method=method, args=(X, Y), **TIGHT)
    agree(ours, scipy_fit(bounds=BOUNDS, **TIGHT), 1e-6)
    assert ours.active_mask.tolist() == [1, 0, 0]
    assert np.all(ours.x <= BOUNDS[1]) and ours.grad[0] < -0.01
    limits = scipy.optimize.Bounds(*BOUNDS)
    same = least_squares(fun, START, bounds=limits, method=method, args=(X, Y), **TIGHT)
    np.testing.assert_array_equal(same.x, ours.x)


def test_equal_bounds_fix_a_parameter():
    bounds = ([-np.inf, 1.25, -np.inf], [np.inf, 1.25, np.inf])
    ours = least_squares(fun, [1.0, 1.25, 1.0], bounds=bounds, args=(X, Y), **TIGHT)
    theirs = scipy.optimize.least_squares(
        lambda p: numpy_fun([p[0], 1.25, p[1]], X, Y), [1.0, 1.0], **TIGHT
    )
    assert ours.x[1] == 1.25
    close(ours.x[[0, 2]], theirs.x, 1e-7)
    close(ours.cost, theirs.cost, 1e-12)


def cauchy_stacked(z, xp=jnp):
    t = 1 + z
    return xp.stack([xp.log(t), 1 / t, -1 / t**2])


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "callable"])
def test_losses(loss):
    """Near the minimum the Jacobians of both are scaled alike but for outliers."""
    ours, theirs = loss, loss
    if loss == "callable":
        ours, theirs = cauchy_stacked, functools.partial(cauchy_stacked, xp=np)
    options = {"f_scale": 0.2, **TIGHT}
    result = least_squares(fun, START, loss=ours, args=(X, OUTLIERS), **options)
    reference = scipy_fit(y=OUTLIERS, loss=theirs, **options)
    agree(result, reference, 1e-4, exact_jac=False)
    inliers = np.abs(result.fun) < 0.15
    assert inliers.sum() == M - 2
    close(result.jac[inliers], reference.jac[inliers], 1e-4)
    assert np.abs(result.x - scipy_fit(y=OUTLIERS).x).max() > 0.02


def test_a_loss_may_return_rho_alone():
    def rho(z):
        return jnp.log1p(z)

    options = {"f_scale": 0.2, **TIGHT}
    result = least_squares(fun, START, loss=rho, args=(X, OUTLIERS), **options)
    reference = scipy_fit(y=OUTLIERS, loss="cauchy", **options)
    agree(result, reference, 1e-4, exact_jac=False)


@pytest.mark.parametrize("x_scale", [2.0, [1.0, 10.0, 0.1]])
def test_x_scale(x_scale):
    """The scaling changes the path, as in SciPy, and not where it ends."""
    ours = least_squares(fun, START, x_scale=x_scale, args=(X, Y))
    theirs = scipy_fit(x_scale=x_scale)
    close(ours.x, theirs.x, 1e-5)
    assert abs(ours.nfev - theirs.nfev) <= 2


@pytest.mark.parametrize("jac", [slopes, "2-point", "3-point", "cs"])
def test_jacobians(jac, plain):
    ours = least_squares(fun, START, jac, args=(X, Y), **TIGHT)
    rtol = {"2-point": 1e-5, "3-point": 1e-8}.get(jac, 1e-10)
    close(ours.x, scipy_fit(**TIGHT).x, 1e-6 if jac == "2-point" else 1e-7)
    close(ours.jac, numpy_slopes(ours.x, X, Y), rtol, rtol)


def test_a_relative_step_is_used():
    """A long step makes a wrong Jacobian, wrong as SciPy's is."""
    options = {"diff_step": 1e-2, "max_nfev": 1, "args": (X, Y)}
    start = [1.0, 2.0, 3.0]
    ours = least_squares(fun, start, "2-point", **options)
    theirs = scipy.optimize.least_squares(numpy_fun, start, "2-point", **options)
    close(ours.jac, theirs.jac, 1e-9, 1e-11)
    assert np.abs(ours.jac - numpy_slopes(start, X, Y)).max() > 1e-4


def test_args_and_kwargs():
    def model(p, x, *, y, power=1, sign="plus"):
        value = p[0] * jnp.exp(-p[1] * x**power) + p[2] - y
        return value if sign == "plus" else -value

    ours = least_squares(model, START, args=(X,), kwargs={"y": Y})
    agree(ours, scipy_fit())
    turned = least_squares(model, START, args=(X,), kwargs={"y": Y, "sign": "minus"})
    close(turned.fun, -ours.fun, 1e-10)
    single = least_squares(lambda p, c: p - c, [1.0, 2.0], args=3.0)
    close(single.x, [3.0, 3.0])


def test_numbers_and_scalars():
    """x0 may be one number, fun may return one."""
    ours = least_squares(lambda p: 2 * (p - 3), 1)
    assert ours.x.shape == (1,) and ours.fun.shape == (1,) and ours.jac.shape == (1, 1)
    close(ours.x, [3.0])
    assert ours.x.dtype == np.float64


# --- When it stops -----------------------------------------------------------------


def test_max_nfev_is_scipys():
    for most in (1, 2, 4):
        ours = least_squares(fun, START, max_nfev=most, args=(X, Y))
        theirs = scipy_fit(max_nfev=most)
        assert ours.nfev == theirs.nfev == most
        assert ours.status == theirs.status == 0 and not ours.success
        assert ours.message == theirs.message
        close(ours.x, theirs.x, 1e-6)
        close(ours.cost, theirs.cost, 1e-6)
        close(ours.fun, numpy_fun(ours.x, X, Y), 1e-12, 1e-14)


@pytest.mark.parametrize(
    ("tolerances", "status"),
    [
        ({"ftol": 1e-3, "xtol": None, "gtol": None}, 2),
        ({"ftol": None, "xtol": 1e-2, "gtol": None}, 3),
        ({"ftol": None, "xtol": None, "gtol": 1e-2}, 1),
    ],
)
def test_each_tolerance_alone(tolerances, status):
    ours = least_squares(fun, START, args=(X, Y), **tolerances)
    theirs = scipy_fit(**tolerances)
    assert ours.status == theirs.status == status
    assert ours.message == theirs.message
    assert abs(ours.nfev - theirs.nfev) <= 1
    if status == 1:
        assert ours.optimality <= 1e-2


def test_the_gtol_of_lm_is_a_cosine():
    def scaled(p, x, y, size):
        return size * fun(p, x, y)

    call = functools.partial(least_squares, scaled, START, method="lm", gtol=1e-3)
    ours, big = call(args=(X, Y, 1.0)), call(args=(X, Y, 1e6))
    r, j = ours.fun, ours.jac
    cosine = np.abs(j.T @ r) / np.linalg.norm(j, axis=0) / np.linalg.norm(r)
    assert ours.status == 1 and cosine.max() <= 1e-3
    assert (big.nfev, big.status) == (ours.nfev, ours.status)


# --- Large problems ----------------------------------------------------------------


@pytest.fixture
def single_precision():
    """JAX as it is before anyone asks for double precision."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


def test_lsmr_gives_products_with_the_jacobian(single_precision):
    options = {"f_scale": 0.2, "loss": "soft_l1", "args": (X, OUTLIERS), **TIGHT}
    ours = least_squares(fun, START, tr_solver="lsmr", **options)
    dense = least_squares(fun, START, **options)
    close(ours.x, dense.x, 1e-6)
    assert isinstance(ours.jac, LinearOperator) and ours.jac.shape == (M, 3)
    assert ours.jac.dtype == np.float64
    close(ours.jac @ np.eye(3), dense.jac, 1e-5, 1e-8)
    close(ours.jac.T @ np.eye(M)[:, :5], dense.jac.T[:, :5], 1e-5, 1e-8)
    # In the precision of the fit: a part of 1e-9 is not lost.
    first, second, _ = np.eye(3)
    small = ours.jac @ (first + 1e-9 * second) - ours.jac @ first
    close(small, 1e-9 * dense.jac[:, 1], 1e-4, 1e-14)


# --- What is told while it runs ----------------------------------------------------


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_table_is_scipys(verbose):
    start = [2.0, 1.0, 0.3]
    options = {"verbose": verbose, "ftol": 1e-5, "xtol": 1e-12, "gtol": 1e-12}
    ours, table = text(least_squares, fun, start, args=(X, Y), **options)
    theirs, expected = text(scipy_fit, start, **options)
    assert table == expected
    assert table.count("\n") == 2 + (verbose == 2) * (ours.nit + 2)
    close(ours.x, theirs.x, 1e-9)


def test_the_table_of_a_longer_path_has_scipys_columns():
    """Down a curved valley, some steps refused: whole numbers, and shapes of lines."""
    start, options = [-1.2, 1.0], {"verbose": 2, "x_scale": "jac"}
    _, ours = text(least_squares, rosenbrock, start, **options)
    scipys = functools.partial(rosenbrock, xp=np)
    _, theirs = text(scipy.optimize.least_squares, scipys, start, **options)
    lines, others = ours.splitlines(), theirs.splitlines()
    assert lines[0] == others[0]
    widths = {len(line) for line in lines[1:-2]}
    assert widths == {len(line) for line in others[1:-2]} == {90}
    for a, b in zip(lines[1:4], others[1:4], strict=True):
        assert re.sub(r"[0-9]", "0", a) == re.sub(r"[0-9]", "0", b)
        close([float(v) for v in a.split()], [float(v) for v in b.split()], 0.05)
    for i, line in enumerate(lines[1:-2]):
        iteration, nfev, *_ = line.split()
        assert int(iteration) == i and int(nfev) > i
    costs = [float(line.split()[2]) for line in lines[1:-2]]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.bits
def test_callbacks():
    points, results = [], []

    def by_result(intermediate_result):
        results.append(intermediate_result)
        if len(results) == 3:
            raise StopIteration

    watched = least_squares(fun, START, args=(X, Y), callback=points.append)
    unwatched = least_squares(fun, START, args=(X, Y))
    for name in ("x", "cost", "fun", "jac", "grad", "nfev", "njev", "nit", "status"):
        np.testing.assert_array_equal(watched[name], unwatched[name])
    np.testing.assert_array_equal(points[-1], watched.x)
    assert len(points) == watched.nit
    stopped = least_squares(fun, START, args=(X, Y), callback=by_result)
    assert stopped.status == -2 and not stopped.success and stopped.nit == 3
    for x, result in zip(points, results, strict=False):
        np.testing.assert_array_equal(x, result.x)
        close(result.fun, numpy_fun(x, X, Y), 1e-12, 1e-14)
        close(result.cost, 0.5 * result.fun @ result.fun, 1e-12)
    np.testing.assert_array_equal(stopped.x, points[2])


def test_a_progress_bar(capfd):
    pytest.importorskip("tqdm")
    least_squares(fun, START, args=(X, Y), progress=True)
    assert "cost" in capfd.readouterr().err


def test_times_are_told(plain):
    again = least_squares(fun, [2.0, 1.0, 0.5], args=(X, 2 * Y))
    assert again.compile_time == 0 < again.run_time
    longer = least_squares(fun, START, args=(np.tile(X, 2), np.tile(Y, 2)))
    assert longer.compile_time > 0
    close(longer.x, plain.x, 1e-6)


# --- Precision ---------------------------------------------------------------------


def test_the_kind_of_x0_decides_the_precision(single_precision):
    theirs = scipy_fit()
    for start in (START, START.astype(np.float32), [1, 1, 1]):
        ours = least_squares(fun, start, args=(X, Y))
        assert ours.x.dtype == ours.fun.dtype == ours.jac.dtype == np.float64
        agree(ours, theirs)
    narrow = least_squares(
        fun, jnp.ones(3), args=(X.astype(np.float32), Y.astype(np.float32))
    )
    assert narrow.x.dtype == narrow.fun.dtype == narrow.jac.dtype == np.float32
    close(narrow.x, theirs.x, 1e-3)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


def test_a_numpy_residual_in_single_precision_is_exact(single_precision):
    kinds = set()

    def checked(p, x, y):
        kinds.update((p.dtype, x.dtype))
        np.testing.assert_array_equal(x, X)
        return numpy_fun(p, x, y)

    ours = least_squares(from_numpy(checked, jac=numpy_slopes), START, args=(X, Y))
    assert kinds == {np.dtype(np.float64)}
    agree(ours, scipy_fit())


# --- Starts and steps within bounds ------------------------------------------------


@pytest.mark.parametrize("share", [1e-9, 1e-6, 1e-4, 1 - 1e-6])
def test_a_start_inside_its_bounds_is_where_the_fit_begins(share):
    """However close to a bound: a start there is often what is known best."""
    low, high = np.array([0.0, -2.0, 1e-9]), np.array([3.0, 5.0, 2e-9])
    start = low + share * (high - low)
    result = least_squares(
        lambda p: jnp.array([1.0, 1.0, 1e9]) * p - 0.7,
        start,
        bounds=(low, high),
        max_nfev=1,
    )
    np.testing.assert_array_equal(result.x, start)
    assert result.status == 0 and result.nfev == 1


@pytest.mark.parametrize("unit", [1.0, 1e-15, 1e12])
def test_a_step_that_would_leave_the_box_stops_short_of_the_bound(unit):
    """On the bound itself its parameter would be frozen there."""
    seen = []

    def fun(p):
        return jnp.stack([p[0] / unit + 1, p[1] / unit - 2, (p[0] + p[1]) / unit])

    def watch(intermediate_result):
        seen.append(np.asarray(intermediate_result.x))

    start = np.array([1.0, 1.0]) * unit
    least_squares(fun, start, bounds=(0, np.inf), callback=watch, ftol=1e-12)
    path = np.array([start, *seen])[:, 0] / unit
    first = np.flatnonzero(path < 0.5)[0]
    assert path[first] / path[first - 1] > 1e-4
    assert path[-1] < 1e-6
