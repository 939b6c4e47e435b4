"""Models with one defect each: the report names it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from health import (
    CLEAN,
    LINE,
    NOISY,
    START,
    WIDE,
    T,
    X,
    biexp,
    checked,
    decay,
    gauss,
    line,
    noise,
    quadratic,
)

import jaxfit
from jaxfit import TRF, Severity, curve_problem


def wave(x, p):
    return jnp.sin(x + p["phase"]) + p["c"]


def saturate(x, p):
    return p["a"] * (1 - jnp.exp(-p["b"] * x))


PATH = TRF(history=True, max_steps=500)
BIEXP = {"a1": 1.5, "k1": 2.0, "a2": 0.8, "k2": 0.7}


def the(report, code):
    """The first finding of a kind, which must be there."""
    assert code in report.codes, report.summary()
    return report.findings[report.codes.index(code)]


# --- Models with one defect each ---------------------------------------------------


def test_no_residual_depends_on_a_parameter():
    report = checked(curve_problem(decay, T, NOISY, {**START, "y": 2.0, "z": 1.0}))
    assert report.codes == ("unused-parameter",)
    assert report.findings[0].severity == Severity.ERROR
    assert report.findings[0].params == ("y", "z")
    assert report.rank == 3


def test_a_polynomial_far_from_its_origin_is_collinear():
    x = np.linspace(100, 102, 40)
    y = 3 + 0.5 * x + 0.1 * noise(40)
    report = checked(
        curve_problem(quadratic, x, y, np.zeros(3)), names=["one", "two", "three"]
    )
    finding = the(report, "collinear")
    assert set(finding.params) == {"one", "two", "three"}
    assert abs(report.correlation[0][1]) > 0.999
    assert the(report, "sloppy").severity == Severity.INFO
    assert "stiffest" in report.summary()


def test_two_exponentials_that_become_one_leave_the_data():
    """With k1 = k2 only a1 + a2 is determined, where the start determined both."""
    y = 2 * np.exp(-T) + 0.05 * noise(60, 7)
    report = checked(curve_problem(biexp, T, y, BIEXP))
    assert {"not-converged", "not-identifiable"} <= set(report.codes)
    assert the(report, "not-identifiable").params == ("a1", "a2")


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_two_exponentials_for_one_are_too_many(seed):
    y = 2 * np.exp(-T) + 0.05 * noise(60, seed)
    report = checked(curve_problem(biexp, T, y, BIEXP))
    finding = the(report, "over-parameterised")
    assert {"k1", "k2"} & set(finding.params)
    assert finding.severity == Severity.WARNING


def test_a_fit_that_did_not_end_is_told_why():
    y = 2 * np.exp(-T) + 0.05 * noise(60, 1)
    report = checked(curve_problem(biexp, T, y, BIEXP))
    assert report.codes[0] == "not-converged"
    assert {"a1", "a2"} <= set(the(report, "collinear").params)


def test_a_polynomial_of_high_degree_is_too_much():
    x = np.linspace(0, 1, 40)
    y = 1 + 2 * x + 0.1 * noise(40)
    report = checked(curve_problem(lambda x, p: jnp.polyval(p, x), x, y, np.zeros(8)))
    # Powers from the seventh down, but never the constant.
    lost = the(report, "over-parameterised").params
    assert len(lost) >= 4 and "params[7]" not in lost


def test_a_symmetric_start_ends_at_a_saddle():
    y = 2 * np.exp(-3 * T) + np.exp(-0.3 * T) + 0.02 * noise(60)
    start = {"a1": 1.0, "k1": 1.0, "a2": 1.0, "k2": 1.0}
    report = checked(curve_problem(biexp, T, y, start))
    finding = the(report, "not-a-minimum")
    assert finding.severity == Severity.ERROR
    assert finding.params == ("k1", "k2")
    assert report.findings[0].severity == Severity.ERROR
    assert checked(curve_problem(biexp, T, y, BIEXP)).healthy


def test_a_phase_that_is_opposite_is_no_minimum_and_a_weak_one_curved():
    x = np.arange(60) * 2 * np.pi / 20
    y = 1 + 0.2 * np.sin(x + 0.5) + 0.05 * noise(60)
    best = np.arctan2(y @ np.cos(x), y @ np.sin(x))
    start = {"phase": best + np.pi, "c": y.mean()}
    report = checked(curve_problem(wave, x, y, start), PATH)
    assert the(report, "not-a-minimum").params == ("phase",)
    start = {"phase": best + 0.2, "c": 0.0}
    report = checked(curve_problem(wave, x, y, start), PATH)
    finding = the(report, "strong-curvature")
    assert (finding.severity, finding.params) == (Severity.WARNING, ("phase",))
    assert "not-a-minimum" not in report.codes


def test_a_bound_is_active():
    start, lower = {**START, "c": 0.7}, {"a": 0.0, "k": 0.0, "c": 0.6}
    problem = curve_problem(decay, T, NOISY, start, bounds=(lower, np.inf))
    report = checked(problem)
    assert the(report, "bound-active").params == ("c",)
    # What is held there has neither a direction nor correlations.
    assert len(report.eigenvalues) == 2
    correlation = np.array(report.correlation)
    place = report.names.index("c")
    assert np.isnan(correlation[place]).all()
    expected = jaxfit.covariance(problem, jaxfit.solve(problem)).correlation
    np.testing.assert_allclose(correlation, expected, rtol=1e-6)


def test_outliers_are_told_by_index():
    y = NOISY.copy()
    y[[7, 30, 51]] += [1.0, -0.8, 0.6]
    report = checked(curve_problem(decay, T, y, START))
    assert the(report, "outliers").data == (7, 30, 51)
    assert the(report, "non-normal-residuals").severity == Severity.INFO
    # Indices are those of the data, masked ones counted.
    mask = np.ones(60, bool)
    mask[[2, 30]] = False
    report = checked(curve_problem(decay, T, y, START, mask=mask))
    assert the(report, "outliers").data == (7, 51)


def test_a_twentieth_of_outliers_on_one_side_do_not_hide_each_other():
    y = NOISY.copy()
    y[[40, 42, 44]] += 0.6
    report = checked(curve_problem(decay, T, y, START))
    assert the(report, "outliers").data == (40, 42, 44)


def test_noise_that_grows_with_the_signal():
    y = CLEAN * (1 + 0.1 * noise(60, 5))
    finding = the(checked(curve_problem(decay, T, y, START)), "wrong-weights")
    assert finding.severity == Severity.WARNING
    # With the right weights nothing is wrong with the same data.
    right = curve_problem(decay, T, y, START, sigma=0.1 * CLEAN)
    assert checked(right, noise="known").healthy


@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_noise_of_another_size_than_supposed(loss):
    def report(sigma, kind="known"):
        sigmas = np.full(60, sigma)
        problem = curve_problem(decay, T, NOISY, START, sigma=sigmas, loss=loss)
        return checked(problem, noise=kind)

    assert report(0.05).healthy
    assert "noise-underestimated" in report(0.02).codes
    assert "noise-overestimated" in report(0.15).codes
    assert report(0.02, "estimated").healthy


def test_parameters_in_wild_units():
    x = np.linspace(490e-9, 510e-9, 100)
    y = 2e6 * np.exp(-0.5 * ((x - 500e-9) / 3e-9) ** 2) + 2e4 * noise(100)
    start = {"height": 1e6, "centre": 499e-9, "width": 2e-9}
    problem = curve_problem(gauss, x, y, start)
    solution = jaxfit.solve(problem)
    report = jaxfit.diagnose(problem, solution)
    # Harmless as long as the solver scales for itself.
    assert the(report, "bad-scaling").params == ("width", "height")
    assert report.healthy
    report = jaxfit.diagnose(problem, solution, solver=TRF(x_scale=1.0))
    assert the(report, "bad-scaling").severity == Severity.WARNING


def few(count):
    """Data of which `count` count."""
    mask = np.zeros(60, bool)
    mask[np.linspace(0, 59, count).astype(int)] = True
    return curve_problem(decay, T, NOISY, START, mask=mask)


def test_few_data():
    assert checked(few(5)).codes == ("few-data",)
    # Of known noise they will do.
    assert "few-data" not in checked(few(5), noise="known").codes


def test_no_data_to_spare():
    report = checked(few(3))
    assert report.codes == ("no-degrees-of-freedom", "exact-fit")
    assert report.worst == Severity.ERROR
    # Errors of known noise need no estimate of it, nor do correlations.
    assert "no-degrees-of-freedom" not in checked(few(3), noise="known").codes
    assert np.isfinite(report.correlation).all()
    less = checked(few(2))
    assert {"no-degrees-of-freedom", "not-identifiable"} <= set(less.codes)
    assert (less.rank, len(less.eigenvalues), len(less.directions)) == (2, 3, 3)


def test_a_term_is_missing():
    y = NOISY + 0.1 * np.sin(3 * T)
    report = checked(curve_problem(decay, T, y, START))
    assert the(report, "structured-residuals").severity == Severity.WARNING
    y = 1 + 0.3 * X + 0.02 * X**2 + 0.1 * noise(30)
    assert "structured-residuals" in checked(curve_problem(line, X, y, LINE)).codes


@pytest.mark.parametrize("centre", [30.0, 100.0])
def test_a_peak_started_far_from_the_data(centre):
    # At 100 all derivatives are 0 exactly, yet no parameter is unused.
    y = 3 * np.exp(-0.5 * ((WIDE - 0.4) / 0.8) ** 2) + 0.1 * noise(100)
    start = {"height": 2.0, "centre": centre, "width": 1.0}
    report = checked(curve_problem(gauss, WIDE, y, start))
    if centre == 30.0:  # two of the derivatives vanish on the way
        assert {"not-converged", "not-identifiable"} <= set(report.codes)
    else:
        gone = the(report, "vanishing-gradient")
        assert gone.params == ("centre", "height", "width")
    assert "unused-parameter" not in report.codes
    assert checked(curve_problem(gauss, WIDE, y, {**start, "centre": 1.0})).healthy


def test_steps_ran_out():
    problem = curve_problem(decay, T, NOISY, START)
    report = checked(problem, TRF(max_steps=2))
    assert report.codes == ("not-converged",)
    assert "MAX_STEPS after 2 steps" in report.findings[0].seen


def test_a_fit_stopped_before_its_minimum():
    y = 2 * np.exp(-2 * T) + np.exp(-0.8 * T) + 0.005 * noise(60)
    start = {"a1": 1.0, "k1": 3.0, "a2": 1.0, "k2": 0.5}
    report = checked(curve_problem(biexp, T, y, start), TRF(ftol=0.1, xtol=0.1))
    assert the(report, "not-stationary").severity == Severity.WARNING


def test_a_single_datum_decides():
    x = np.append(np.linspace(0, 1, 29), 10.0)
    y = 2 * x + 1 + 0.1 * noise(30)
    # Where it fits the others it is but far.
    report = checked(curve_problem(line, x, y, LINE))
    assert the(report, "high-leverage").data == (29,)
    assert report.healthy
    y[-1] += 3
    finding = the(checked(curve_problem(line, x, y, LINE)), "influential-data")
    assert (finding.severity, finding.data) == (Severity.WARNING, (29,))


def test_squares_of_an_ill_conditioned_jacobian():
    x = np.linspace(100, 100.1, 40)
    problem = curve_problem(quadratic, x, 3 + 0.5 * x + 0.1 * noise(40), np.ones(3))
    finding = the(checked(problem, TRF(linear_solver="gram")), "precision")
    assert "J'J" in finding.seen and "qr" in finding.advice
    assert "precision" not in checked(problem).codes


@pytest.mark.parametrize("origin, code", [(20, "collinear"), (200, "not-identifiable")])
def test_single_precision_does_not_do(origin, code):
    x = np.linspace(origin, origin + 1, 40, dtype=np.float32)
    y = (3 + 0.5 * x + 0.1 * noise(40)).astype(np.float32)
    report = checked(curve_problem(quadratic, x, y, np.ones(3, np.float32)))
    assert "float64" in the(report, "precision").advice
    # In float32 the latter cannot be told from a combination without effect.
    assert code in report.codes


def test_single_precision_data_on_a_large_offset():
    x = np.linspace(-1, 3, 40, dtype=np.float32)
    y = (1e5 + x**2 + 0.05 * noise(40)).astype(np.float32)
    start = np.array([1e5, 1, 1], np.float32)
    report = checked(curve_problem(quadratic, x, y, start))
    assert "1e+05" in the(report, "precision").seen


def test_a_fit_that_follows_a_flat_valley():
    # Data bend upwards, so that b goes to 0 and a to infinity.
    x = np.linspace(0, 1, 30)
    y = x + 0.1 * x**2 + 0.02 * noise(30)
    problem = curve_problem(saturate, x, y, {"a": 1.0, "b": 1.0})
    report = checked(problem, PATH)
    assert the(report, "stagnation").severity == Severity.WARNING
    assert "not-converged" in report.codes


def test_a_path_that_converges_slowly_does_not_stagnate():
    x = np.arange(60) * 2 * np.pi / 20
    y = 1 + 0.5 * np.sin(x + 0.5) + 0.05 * noise(60)
    problem = curve_problem(wave, x, y, {"phase": 0.0, "c": 0.0})
    solution = jaxfit.solve(problem, PATH)
    assert solution.success and int(solution.num_steps) > 20
    assert "stagnation" not in jaxfit.diagnose(problem, solution).codes


@pytest.mark.parametrize("rate", [-100.0, -1000.0])
def test_a_model_that_overflows_at_the_start(rate):
    problem = curve_problem(decay, T, NOISY, {**START, "k": rate})
    report = checked(problem)
    assert report.codes == ("not-converged", "not-finite")
    assert report.correlation is None and report.eigenvalues == ()
    assert json.loads(report.to_json())["condition"] == "inf"
    assert "not finite" in report.summary()


def test_an_exact_fit_is_information():
    report = checked(curve_problem(decay, T, CLEAN, START))
    assert report.codes == ("exact-fit",) and report.healthy


@pytest.mark.parametrize("slope", [2.0, 0.0])
def test_an_exact_fit_to_parameters_that_are_zero(slope):
    report = checked(curve_problem(line, X, slope * X, LINE))
    assert report.codes == ("exact-fit",)


def test_nothing_is_free():
    values = {"a": 2.5, "k": 1.3, "c": 0.5}
    report = checked(curve_problem(decay, T, NOISY, values, bounds=(values, values)))
    assert report.healthy and report.eigenvalues == () and report.condition == 1
    report.summary()
