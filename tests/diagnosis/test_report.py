"""The health report: text, JSON, pictures, analysers of the user, numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from health import (
    NOISY,
    START,
    T,
    checked,
    quadratic,
    some_decay,
    twofold,
)

import jaxfit
from jaxfit import Finding, Severity, curve_problem


# --- The report --------------------------------------------------------------------


def test_summary(report):
    text = report.summary()
    assert text == str(report)
    assert text.startswith("1 finding above information.")
    assert "WARNING outliers: 1 of 60 residuals" in text
    assert "rank 3 of 3" in text and "sloppiest" in text
    good = checked(some_decay(np.random.default_rng(0)))
    assert good.summary().startswith("Healthy")
    assert good.worst is None and good.codes == ()


def test_the_most_severe_come_first(report):
    assert report.codes == ("outliers", "non-normal-residuals")
    assert report.worst == Severity.WARNING and not report.healthy
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, reverse=True)


def test_json(report):
    back = json.loads(report.to_json())
    assert back == report.to_dict()
    assert [f["code"] for f in back["findings"]] == list(report.codes)
    assert back["findings"][0]["severity"] == "WARNING"
    assert back["findings"][0]["data"] == [40]
    assert back["names"] == ["a", "c", "k"]
    assert len(back["residuals"]) == 60
    np.testing.assert_allclose(back["eigenvalues"], report.eigenvalues)


def test_plot(report):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg", force=True)
    plt = pytest.importorskip("matplotlib.pyplot")
    axes = report.plot()
    assert len(axes) == 3
    _, own = plt.subplots(1, 3)
    assert list(report.plot(own)) == list(own)
    with pytest.raises(ValueError, match="`axes` must be 3"):
        report.plot(own[:2])
    plt.close("all")


def test_analysers_of_the_user(fit, report):
    def large(checkup):
        assert checkup.jacobian.shape == (60, 3)
        worst = int(np.argmax(np.abs(checkup.residual)))
        yield Finding("large", Severity.ERROR, "a", "b", ("a",), (worst,))

    def silent(checkup):
        return []

    mine = jaxfit.diagnose(*fit, analysers=[large, silent])
    assert mine.codes == ("large", *report.codes)
    assert mine.findings[1:] == report.findings
    assert mine.findings[0].data == (40,)


@pytest.mark.usefixtures("without_type_checks")
def test_numpy_numbers_of_the_user_become_json(fit):
    def large(checkup):
        worst = np.argmax(np.abs(checkup.residual))
        yield Finding("large", Severity.ERROR, "a", "b", data=(worst,))

    mine = jaxfit.diagnose(*fit, analysers=[large])
    assert json.loads(mine.to_json())["findings"][0]["data"] == [40]


@pytest.mark.usefixtures("without_type_checks")
def test_an_analyser_that_fails_is_named_and_the_rest_stands(fit, report):
    def breaks(checkup):
        yield Finding("never", Severity.ERROR, "a", "b")
        raise ZeroDivisionError("oh")

    def no_list(checkup):
        return Finding("alone", Severity.INFO, "a", "b")

    def no_finding(checkup):
        return ["words"]

    def nothing(checkup):
        pass

    def no_severity(checkup):
        return [Finding("loud", "very", "a", "b")]

    bad = [breaks, no_list, no_finding, nothing, no_severity]
    bad += [functools.partial(breaks)]
    mine = jaxfit.diagnose(*fit, analysers=bad)
    failed = [f for f in mine.findings if f.code == "analyser-failed"]
    assert len(failed) == len(bad)
    names = ["breaks", "no_list", "no_finding", "nothing", "no_severity", "partial"]
    for one, name in zip(failed, names, strict=True):
        assert f"analyser {name} raised" in one.seen
    assert "ZeroDivisionError: oh" in failed[0].seen
    assert "expected jaxfit.Finding, got str" in failed[2].seen
    assert set(report.findings) < set(mine.findings) and "never" not in mine.codes


def test_names_can_be_given(fit):
    mine = jaxfit.diagnose(*fit, names=["amplitude", "floor", "rate"])
    assert mine.names == ("amplitude", "floor", "rate")
    assert "rate" in mine.directions[-1]


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input(fit):
    problem, solution = fit
    with pytest.raises(TypeError, match=r"`problem` must be a jaxfit.Problem"):
        jaxfit.diagnose(solution, solution)
    with pytest.raises(TypeError, match=r"`solution` must be a jaxfit.Solution"):
        jaxfit.diagnose(problem, problem)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), solution)
    with pytest.raises(ValueError, match=r"batch of shape \(2,\)"):
        jaxfit.diagnose(problem, batch)
    with pytest.raises(ValueError, match="outside of a trace"):
        jax.jit(lambda s: len(jaxfit.diagnose(problem, s).codes))(solution)
    with pytest.raises(ValueError, match="`names` must be 3 different names"):
        jaxfit.diagnose(problem, solution, names=["a", "k"])
    with pytest.raises(ValueError, match="structure"):
        jaxfit.diagnose(curve_problem(quadratic, T, NOISY, np.ones(3)), solution)
    with pytest.raises(ValueError, match="`noise`"):
        jaxfit.diagnose(problem, solution, noise="unknown")
    with pytest.raises(TypeError, match="`analysers` must be functions, got 3"):
        jaxfit.diagnose(problem, solution, analysers=[3])


# --- The numbers -------------------------------------------------------------------


def test_the_spectrum_is_that_of_the_scaled_fisher_information(fit, report):
    p = {name: float(value) for name, value in fit[1].params.items()}
    fall = np.exp(-p["k"] * T)
    jacobian = np.stack([fall, np.ones(60), -p["a"] * T * fall], axis=1)
    scaled = jacobian / np.linalg.norm(jacobian, axis=0)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    np.testing.assert_allclose(report.eigenvalues, values[::-1], rtol=1e-9)
    assert sum(report.eigenvalues) == pytest.approx(3)
    condition = np.sqrt(values[-1] / values[0])
    assert report.condition == pytest.approx(condition, rel=1e-9)
    assert report.rank == 3
    # In words: the parameter that a direction moves most comes first.
    for words, vector in zip(report.directions, vectors.T[::-1], strict=True):
        assert words.split()[0] == report.names[np.argmax(np.abs(vector))]
    residual = p["a"] * fall + p["c"] - np.asarray(fit[0].args.y)
    deviation = np.sqrt(residual @ residual / 57)
    np.testing.assert_allclose(report.residuals, residual / deviation, atol=1e-9)


def test_correlations_are_those_of_the_covariance(fit, report):
    expected = jaxfit.covariance(*fit).correlation
    np.testing.assert_allclose(report.correlation, expected, rtol=1e-8)


def test_directions_are_in_names():
    start = {**START, "b": 1.5, "d": 0.5}
    problem = curve_problem(twofold, T, NOISY, start)
    report = checked(problem, names=["amp", "gain", "base", "floor", "rate"])
    assert all(f.code == "not-identifiable" for f in report.findings)
    said = {f.params for f in report.findings}
    assert said == {("amp", "gain"), ("base", "floor")}
    assert len(report.directions) == len(report.eigenvalues) == 5
