"""Derivatives that are not finite where the residual is: differences replace them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem, fit_stream
from jaxfit._problem.objective import Objective
from jaxfit._problem.repair import steps


# Ryegrass: root length (cm) by the concentration of ferulic acid (mM), six controls
# (Inderjit, Streibig and Olofsdotter 2002, in the R package drc).
DOSE = np.repeat([0.0, 0.94, 1.88, 3.75, 7.5, 15.0, 30.0], [6, 3, 3, 3, 3, 3, 3])
CONTROLS = [7.58, 8.0, 8.328571429, 7.25, 7.375, 7.9625]
TREATED = [
    *(8.355555556, 6.914285714, 7.75, 6.871428571, 6.45, 5.922222222, 1.925),
    *(2.885714286, 4.233333333, 1.1875, 0.857142857, 1.057142857, 0.6875, 0.525),
    *(0.825, 0.25, 0.22, 0.44),
]
ROOT = np.array([*CONTROLS, *TREATED])
# A flat curve, which ends with an exponent below 1.
RNG = np.random.default_rng(3)
FLAT = 8 / (1 + (DOSE / 2.0) ** 0.6) + RNG.normal(0, 0.1, DOSE.size)
START = np.array([1.0, 8.0, 1.5])
TIGHT = TRF(ftol=0.0, xtol=1e-14, gtol=1e-13)
FORMS = ["qr", "gram"]


def dose(x, p):
    return p[1] / (1 + (x / p[2]) ** p[0])


def safe_dose(x, p):
    """The same function, written so that its derivatives are finite."""
    power = (jnp.where(x > 0, x, 1) / p[2]) ** p[0]
    return p[1] / (1 + jnp.where(x > 0, power, 0))


def scipys(x, b, top, e):
    return dose(x, (b, top, e))


def threshold(x, p):
    return p[0] * jnp.sqrt(jnp.maximum(x - p[1], 0))


def alike(found, safe, rtol=1e-7):
    assert found.success
    np.testing.assert_allclose(found.cost, safe.cost, rtol=1e-10)
    error = np.sqrt(np.diag(np.asarray(safe.covariance())))
    assert np.all(np.abs(np.asarray(found.params) - safe.params) <= rtol * error + rtol)
    np.testing.assert_allclose(found.covariance(), safe.covariance(), rtol=1e-5)


@pytest.fixture(scope="module")
def safe():
    solution = jaxfit.solve(curve_problem(safe_dose, DOSE, FLAT, START), TIGHT)
    assert not solution.differenced
    assert 0 < solution.params[0] < 1
    return solution


# --- One fit, in every form ------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("form", FORMS)
def test_a_power_of_zero_whose_exponent_passes_below_one(safe, form, chunk_size):
    solver = TIGHT.replaced(linear_solver=form, chunk_size=chunk_size)
    found = jaxfit.solve(curve_problem(dose, DOSE, FLAT, START), solver)
    alike(found, safe)
    assert found.differenced


def test_by_reverse_mode(safe):
    solver = TIGHT.replaced(mode="reverse")
    found = jaxfit.solve(curve_problem(dose, DOSE, FLAT, START), solver)
    alike(found, safe)
    assert found.differenced


def test_under_vmap_one_lane_does_not_change_another(safe):
    starts = np.stack([START, [3.0, 8.0, 1.5], START])
    y = np.stack([FLAT, ROOT, FLAT])

    def fit(y, start):
        return jaxfit.solve(curve_problem(dose, DOSE, y, start), TIGHT)

    found = jax.jit(jax.vmap(fit))(y, starts)
    one = jax.tree.map(lambda a: a[0], found)
    alike(one, safe)
    np.testing.assert_array_equal(found.differenced, [True, False, True])
    alone = jaxfit.solve(curve_problem(safe_dose, DOSE, ROOT, starts[1]), TIGHT)
    np.testing.assert_allclose(found.params[1], alone.params, rtol=1e-8)


def test_rows_on_several_devices(safe):
    mesh = jax.make_mesh((4,), ("rows",))
    solver = TIGHT.replaced(mesh=mesh)
    found = jaxfit.solve(curve_problem(dose, DOSE, FLAT, START), solver)
    alike(found, safe)
    assert found.differenced


def test_streamed(safe):
    chunks = [(DOSE[i : i + 9], FLAT[i : i + 9]) for i in range(0, 24, 9)]
    found, _ = fit_stream(dose, chunks, START, solver=TIGHT, chunk_size=5)
    alike(found, safe)
    assert found.differenced


def test_a_robust_loss_and_weights():
    options = {"loss": "soft_l1", "f_scale": 0.1, "sigma": 0.5 + 0.02 * DOSE}
    found, safe = (
        jaxfit.solve(curve_problem(f, DOSE, FLAT, START, **options), TIGHT)
        for f in (dose, safe_dose)
    )
    alike(found, safe)


def test_single_precision():
    x, y, start = (np.float32(a) for a in (DOSE, FLAT, START))
    found, safe = (
        jaxfit.solve(curve_problem(f, x, y, start)) for f in (dose, safe_dose)
    )
    assert found.success and found.differenced
    np.testing.assert_allclose(found.params, safe.params, rtol=1e-3)


def test_matrix_free_says_that_it_cannot():
    solver = TRF(linear_solver="matrix_free")
    found = jaxfit.solve(curve_problem(dose, DOSE, FLAT, START), solver)
    assert found.status == Status.NONFINITE_JACOBIAN
    assert found.nfev < 100


# --- The rows themselves ---------------------------------------------------------


def objective(model, x, y, start, form="qr", **options):
    problem = curve_problem(model, x, y, start, **options)
    return Objective.of(problem, jnp.asarray(start), TRF(linear_solver=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_values_of_repaired_rows_in_all_units(form, scale):
    # Below 0 the derivative of the root is inf * 0; that of the sine remains.
    def broken(x, p):
        z = (x - p[1]) / scale
        return p[0] * (jnp.sin(z) + jnp.sqrt(jnp.maximum(z, 0)))

    x = scale * np.linspace(-6.0, 6.0, 13)
    p = np.array([2.0, 0.25 * scale])
    y = np.zeros(13)
    _, j = objective(broken, x, y, p, form).rows_at(jnp.asarray(p))
    z = (x - p[1]) / scale
    root = np.where(z > 0, 0.5 / np.sqrt(np.abs(z)), 0)
    expected = -p[0] / scale * (np.cos(z) + root)
    assert np.isnan(jax.jacfwd(lambda p: broken(x, p))(p)).any()
    np.testing.assert_allclose(j[:, 1], expected, rtol=1e-7)
    lin = objective(broken, x, y, p, form).linearise(jnp.asarray(p))
    assert np.isfinite(lin.grad).all()
    np.testing.assert_allclose(lin.column_norms[1], np.linalg.norm(expected), rtol=1e-7)


def test_differences_stay_inside_the_bounds():
    bounds = jaxfit._trf.bounds.Bounds(
        jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 9])
    )
    x = jnp.array([1e-9, 1.0, 9.0])
    for length in (jnp.zeros(3), jnp.full(3, jnp.inf), jnp.full(3, 0.1)):
        for step in steps(x, length, bounds):
            assert bounds.contain(x + step)
            assert step[1] == 0


def test_a_side_that_is_not_finite_gives_way_to_the_other():
    # log(0 * (p - 1)) is NaN for p < 1, and the derivative at p = 1 is 0 / 0.
    def residual(p, _):
        return jnp.stack(
            [jnp.where(p[0] < 1, jnp.nan, jnp.sqrt((p[0] - 1) ** 2)), p[0]]
        )

    x = jnp.array([1.0])
    of = Objective.of(Problem(residual, x), x, TRF(linear_solver="qr"))
    r, j = of.rows_at(x)
    assert np.isfinite(r).all()
    np.testing.assert_allclose(j, [[1.0], [1.0]], rtol=1e-6)


def test_where_both_sides_disagree_the_flatter_one_counts():
    # At the threshold itself one side is infinitely steep, the other is flat.
    p = jnp.array([2.0, 4.0])
    of = objective(threshold, np.arange(1, 9.0), np.zeros(8), p)
    _, j = of.rows_at(p)
    assert np.isfinite(j).all()
    np.testing.assert_array_equal(j[:4], 0)


def test_masked_rows_call_for_no_repair():
    p = jnp.array([0.6, 8.0, 1.5])
    of = objective(dose, DOSE, FLAT, p, mask=DOSE > 0)
    assert of.linearise(p).differenced == 0
    of = objective(dose, DOSE, FLAT, p)
    assert of.linearise(p).differenced > 0


def test_nothing_is_evaluated_more_where_all_is_finite():
    calls = []

    def model(x, p):
        jax.debug.callback(lambda _: calls.append(1), p)
        return safe_dose(x, p)

    solution = jaxfit.solve(curve_problem(model, DOSE, FLAT, START))
    jax.block_until_ready(solution)
    # Trials, linearisations, and the look at the end.
    assert len(calls) <= int(solution.nfev + solution.njev) + 1


def test_a_residual_that_is_not_finite_is_not_repaired():
    def residual(p, _):
        return jnp.stack([jnp.log(p - 2), p])

    solution = jaxfit.solve(Problem(residual, 1.0))
    assert solution.status == Status.NONFINITE_START


# --- The doors -------------------------------------------------------------------


def test_curve_fit_tells_of_differences():
    with pytest.warns(RuntimeWarning) as told:
        result = jaxfit.curve_fit(scipys, DOSE, FLAT, START)
    (one,) = told
    says = str(one.message)
    assert says.startswith("Derivatives of f are differences for 6 data")
    assert "by `b` at index 0 (x = 0.0)" in says
    assert "\n" not in says
    assert result.num_differenced == 6
    again = jaxfit.CurveFitResult.from_json(result.to_json())
    assert again.num_differenced == 6
    lower, upper = result.confidence_band()
    assert np.isfinite(lower).all() and (lower < upper).all()


def test_curve_fit_is_silent_where_the_end_is_smooth():
    result = jaxfit.curve_fit(scipys, DOSE, ROOT, START)
    assert result.num_differenced == 0
    assert 2 * result.cost < 8.2
    assert result.popt[0] > 1


@pytest.mark.parametrize("b", [1.0, 2.0])
def test_ryegrass(b):
    def curve(x, b, c, d, e):
        return c + (d - c) / (1 + (x / e) ** b)

    median = np.median(DOSE[DOSE > 0])
    result = jaxfit.curve_fit(curve, DOSE, ROOT, [b, ROOT.min(), ROOT.max(), median])
    # drm(rootl ~ conc, data = ryegrass, fct = LL.4())
    np.testing.assert_allclose(
        result.popt, [2.98222, 0.48141, 7.79296, 3.05795], rtol=1e-5
    )


def test_a_batch_of_dose_responses():
    y = np.stack([FLAT, ROOT, FLAT[::-1], 0.5 * FLAT])
    result = jaxfit.curve_fit_batch(scipys, DOSE, y, START)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for i in (0, 1, 3):
            one = jaxfit.curve_fit(scipys, DOSE, y[i], START)
            assert result.success[i]
            np.testing.assert_allclose(result.cost[i], one.cost, rtol=1e-8)
            np.testing.assert_allclose(result.popt[i], one.popt, rtol=1e-4)
    np.testing.assert_array_equal(result.differenced[[0, 1, 3]], [True, False, True])


def test_a_batch_of_problems_by_the_kernels_step(safe):
    # As beyond 12 parameters, or by "qr".
    def problem(y):
        return curve_problem(dose, DOSE, y, START)

    problems = jax.vmap(problem)(np.stack([FLAT, ROOT]))
    found = jaxfit.solve_batch(problems, TIGHT.replaced(linear_solver="qr"))
    assert found.success.all()
    np.testing.assert_array_equal(found.differenced, [True, False])
    np.testing.assert_allclose(found.params[0], safe.params, rtol=1e-6)


@pytest.mark.parametrize("start", [[1.0, 2.0], [1.9, 4.0]])
def test_a_threshold_below_which_nothing_depends_on_it(start):
    x = np.arange(1.0, 16.0)
    y = np.asarray(threshold(x, [2.0, 4.4]))

    def curve(x, a, x0):
        return threshold(x, (a, x0))

    with pytest.warns(RuntimeWarning, match="differences for 4 data"):
        result = jaxfit.curve_fit(curve, x, y, start)
    np.testing.assert_allclose(result.popt, [2.0, 4.4], rtol=1e-8)
    batch = jaxfit.curve_fit_batch(curve, x, np.stack([y, y]), start)
    np.testing.assert_allclose(batch.popt, [[2.0, 4.4]] * 2, rtol=1e-6)
    noisy = y + 0.01 * np.cos(17 * x)
    squares = jaxfit.least_squares(lambda p: threshold(x, p) - noisy, start)
    assert squares.success
    np.testing.assert_allclose(squares.x, [2.0, 4.4], rtol=0.02)
    assert np.isfinite(squares.jac).all()


def test_errors_say_where_derivatives_are_lost():
    options = {"method": "trf", "tr_solver": "lsmr"}
    with pytest.raises(ValueError, match=r"by `b` is not finite at index 0 \(x = 0.0"):
        jaxfit.curve_fit(scipys, DOSE, FLAT, [0.5, 8.0, 1.5], **options)
    with pytest.raises(
        jaxfit.FitError, match=r"There the derivative of f by `b`.*lsmr"
    ):
        jaxfit.curve_fit(scipys, DOSE, FLAT, [1.5, 8.0, 1.5], **options)
    with pytest.raises(jaxfit.FitError, match="There `jac` or the sum of squares"):
        jaxfit.curve_fit(
            scipys,
            DOSE,
            FLAT,
            START,
            jac=lambda x, *p: jax.jacfwd(lambda p: dose(x, p))(jnp.stack(p)),
        )


# --- Derivatives of a fit --------------------------------------------------------


def rate(model, solver=TIGHT):
    """The rate that is fitted, and the cost, as functions of the data."""

    def fit(y):
        return jaxfit.solve(curve_problem(model, DOSE, y, START), solver)

    return jax.grad(lambda y: fit(y).params[0]), jax.grad(lambda y: fit(y).cost)


def test_the_derivative_of_a_fit_is_that_of_gauss_newton():
    of_rate, of_cost = rate(dose)
    newton, cost = rate(safe_dose, TIGHT.replaced(derivative="gauss_newton"))
    found = jax.vmap(of_rate)(np.stack([FLAT, ROOT]))
    np.testing.assert_allclose(found[0], newton(FLAT), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(of_cost(FLAT), cost(FLAT), rtol=1e-6, atol=1e-10)
    # Where the fit ends with finite derivatives it is the exact one.
    exact, _ = rate(safe_dose)
    np.testing.assert_allclose(found[1], exact(ROOT), rtol=1e-6, atol=1e-10)


# --- Residuals that forbid forward mode ------------------------------------------


@jax.custom_vjp
def sine(z):
    return jnp.sin(z)


sine.defvjp(lambda z: (jnp.sin(z), z), lambda z, c: (c * jnp.cos(z),))
TIMES = np.linspace(0.0, 2.0, 60)
WAVE = 2.0 * np.sin(1.3 * TIMES + 0.2) + RNG.normal(0, 0.05, TIMES.size)


def wave(x, a, b, c):
    return a * sine(b * x + c)


def plain_wave(x, a, b, c):
    return a * jnp.sin(b * x + c)


@pytest.mark.parametrize("rows", [20, 60], ids=["reverse", "differences"])
def test_every_door_takes_a_residual_that_forbids_forward_mode(rows):
    t, y, p0 = TIMES[:rows], WAVE[:rows], [1.5, 1.0, 0.0]
    expected = jaxfit.curve_fit(plain_wave, t, y, p0)
    result = jaxfit.curve_fit(wave, t, y, p0)
    np.testing.assert_allclose(result.popt, expected.popt, rtol=1e-6)
    np.testing.assert_allclose(result.perr, expected.perr, rtol=1e-5)
    band, want = result.confidence_band(), expected.confidence_band()
    np.testing.assert_allclose(band, want, rtol=1e-5, atol=1e-7)
    squares = jaxfit.least_squares(lambda p: wave(t, *p) - y, p0)
    np.testing.assert_allclose(squares.x, expected.popt, rtol=1e-4)
    batch = jaxfit.curve_fit_batch(wave, t, np.stack([y, y]), p0)
    np.testing.assert_allclose(batch.popt, [expected.popt] * 2, rtol=1e-4)
    chunked = TRF(chunk_size=7, linear_solver="gram")
    problem = curve_problem(lambda x, p: wave(x, *p), t, y, np.array(p0))
    solution = jaxfit.solve(problem, chunked)
    np.testing.assert_allclose(solution.params, expected.popt, rtol=1e-6)

    def fitted(y, model):
        problem = curve_problem(lambda x, p: model(x, *p), t, y, np.array(p0))
        solver = TRF(derivative="gauss_newton")
        return jaxfit.solve(problem, solver).params[1]

    mine, theirs = (jax.grad(fitted)(y, model) for model in (wave, plain_wave))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-8)


def test_large_data_with_a_residual_that_forbids_forward_mode():
    result = jaxfit.fit_large_dataset(wave, TIMES, WAVE, [1.5, 1.0, 0.0])
    expected = jaxfit.curve_fit(plain_wave, TIMES, WAVE, [1.5, 1.0, 0.0])
    np.testing.assert_allclose(result.popt, expected.popt, rtol=1e-5)
