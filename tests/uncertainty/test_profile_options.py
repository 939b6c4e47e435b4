"""Profiles of chosen parameters, in jit, as a table, as pictures; what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from profiles import (
    JOINT,
    LEVELS,
    REACH,
    SIGMA,
    M,
    data,
    edges,
    problem_of,
    profiled,
    solved,
    wide_edges,
)

import jaxfit


NAMES = ("amp", "base", "rate[0]", "rate[1]")


# --- Selection, transformations, presentation --------------------------------------


def some(problem, solution, params=("rate", "base"), names=None):
    return jaxfit.profile(problem, solution, params, LEVELS, noise="known", names=names)


def test_parameters_are_chosen_by_name_and_index():
    problem, solution = problem_of("decay", True), solved("decay", True)
    whole, order = profiled("decay"), np.array([2, 3, 1])
    assert whole.names == NAMES
    by_name = some(problem, solution)
    assert by_name.names == ("rate[0]", "rate[1]", "base")
    for field in ("estimate", "errors", "lower", "upper", "lower_side", "upper_side"):
        expected = np.asarray(getattr(whole, field))[order]
        np.testing.assert_allclose(getattr(by_name, field), expected, rtol=1e-6)
    by_index = some(problem, solution, (2, 3, "base"))
    jax.tree.map(np.testing.assert_array_equal, by_index, by_name)
    renamed = some(problem, solution, ["k", 3, "c"], "ackz")
    assert renamed.names == ("k", "z", "c")
    assert renamed.interval("c", 0.95) == by_name.interval("base", 0.95)
    (one,) = some(problem, solution, ["rate[0]", 3, "base", "rate", 1]).lower[:1]
    np.testing.assert_array_equal(one, by_name.lower[0])


def fit_and_profile(y):
    problem = problem_of("decay", True, y)
    return some(problem, jaxfit.solve(problem))


def test_a_batch_inside_jit_equals_single_calls():
    """And a fit that fails is NaN there, without harm to its neighbours."""
    rng = np.random.default_rng(3)
    y = data("decay") + SIGMA * rng.normal(size=(4, M))
    y[2] = np.nan
    batch = jax.jit(jax.vmap(fit_and_profile))(y)
    assert batch.lower.shape == (4, 3, 2)
    assert batch.names == ("rate[0]", "rate[1]", "base")
    for i in (0, 1, 3):
        single = fit_and_profile(y[i])
        for field in ("estimate", "errors", "lower", "upper", "lower_params"):
            theirs = getattr(single, field)
            np.testing.assert_allclose(getattr(batch, field)[i], theirs, rtol=1e-6)
        np.testing.assert_array_equal(batch.upper_side[i], single.upper_side)
    assert np.isnan(batch.lower[2]).all()
    assert np.isnan(batch.upper[2]).all()


def test_an_interval_is_read_by_name_and_level():
    ours = profiled("decay")
    assert ours.interval("rate[0]", 0.95) == (ours.lower[2, 1], ours.upper[2, 1])
    with pytest.raises(ValueError, match=r"`level` must be one of \(0.68.*got 0.9"):
        ours.interval("amp", 0.9)
    with pytest.raises(ValueError, match="'amp1': did you mean 'amp'"):
        ours.interval("amp1", 0.95)


def test_the_summary_is_a_table_with_reasons():
    lines = profiled("open").summary().splitlines()
    assert " ".join(lines[0].split()) == (
        "parameter estimate std. error 68.2689% from to 95% from to"
    )
    row = lines[2].split()
    lower = profiled("open").lower
    assert row[0] == "base"
    assert row[3:] == [f"{lower[1, 0]:.6g}", "inf", f"{lower[1, 1]:.6g}", "inf"]
    assert len({len(text) for text in lines[:5]}) == 1
    text = "\n".join(lines[5:])
    assert "base, above, 95%: the cost never rises to the level" in text
    assert "base, below" not in text
    assert "amp" not in text


def test_pictures():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ours = profiled("open")
    axes = ours.plot()
    assert [ax.get_xlabel() for ax in axes] == list(NAMES)
    x, tau = axes[1].lines[0].get_data()
    # Two crossings below the estimate, none above.
    np.testing.assert_allclose(x, [*ours.lower[1, ::-1], ours.estimate[1]])
    np.testing.assert_allclose(tau, [-REACH[1], -REACH[0], 0])
    _, given = plt.subplots(1, 4)
    assert ours.plot(given)[0] is given[0]
    with pytest.raises(ValueError, match="`axes` must be 4, one for each picture: 1"):
        ours.plot(given[0])

    ax = edges("decay").plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("amp", "base")
    # The widest first, closed.
    for line, j in zip(ax.lines, (1, 0), strict=False):
        drawn = line.get_xydata()
        np.testing.assert_allclose(drawn[:-1], edges("decay").points[j])
        np.testing.assert_array_equal(drawn[-1], drawn[0])
        assert line.get_label().startswith(f"{100 * JOINT[j]:.3g}")
    plt.close("all")


# --- Bad input ---------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("function", [jaxfit.profile, jaxfit.contour])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"levels": 0.0}, ValueError, r"`levels` must be between 0 and 1, got 0.0"),
        ({"levels": (0.5, 1.0)}, ValueError, r"between 0 and 1, got 1.0: 0.95 is 95%"),
        ({"levels": 95}, ValueError, "between 0 and 1, got 95.0"),
        ({"levels": np.nan}, ValueError, "between 0 and 1, got nan"),
        ({"levels": ()}, ValueError, "`levels` is empty"),
        ({"noise": "robust"}, ValueError, r"`noise` must be one of .*'robust'"),
        (
            {"params": "rate[2]"},
            ValueError,
            r"'rate\[2\]': did you mean 'rate\[[01]\]'",
        ),
        ({"params": ["amp", "bases"]}, ValueError, "'bases': did you mean 'base'"),
        ({"params": 4}, ValueError, "holds 4, but .* counted from 0 to 3"),
        ({"params": -1}, ValueError, "holds -1"),
        ({"params": 1.5}, TypeError, "names or indices of parameters, got 1.5"),
        ({"params": []}, ValueError, "`params` is empty"),
        ({"names": "abc"}, ValueError, "`names` must be 4 different names"),
    ],
)
def test_bad_options(function, options, error, text):
    given = {"params": ["amp", "base"], "noise": "known", **options}
    with pytest.raises(error, match=text):
        function(problem_of("decay"), solved("decay"), **given)


@pytest.mark.usefixtures("without_type_checks")
def test_a_contour_is_of_two_parameters_that_are_free():
    problem, solution = problem_of("decay"), solved("decay")
    for params in ("amp", ["amp", "base", "rate[0]"], ["amp", "amp"]):
        with pytest.raises(ValueError, match="`params` must be two, got"):
            jaxfit.contour(problem, solution, params)
    with pytest.raises(ValueError, match="`points` must be at least 1, got 0"):
        jaxfit.contour(problem, solution, [0, 1], points=0)
    with pytest.raises(ValueError, match=r"rate\[0\] and amp have no joint region"):
        wide_edges("linear")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("function", [jaxfit.profile, jaxfit.contour])
def test_a_solution_must_have_converged_and_leave_data_for_the_noise(function):
    problem, solution = problem_of("decay"), solved("decay")

    def changed(where, value):
        return eqx.tree_at(where, solution, value)

    unfit = changed(lambda s: s.counts, solution.counts.at[0].set(0))
    with pytest.raises(ValueError, match=rf"{function.__name__} .* MAX_STEPS"):
        function(problem, unfit, [0, 1])
    with pytest.raises(TypeError, match=r"`problem` must be a jaxfit\.Problem"):
        function(None, solution, [0, 1])
    with pytest.raises(TypeError, match=r"`solution` must be a jaxfit\.Solution"):
        function(problem, solution.params, [0, 1])
    few = changed(lambda s: s.num_rows, jnp.array(3, jnp.int32))
    with pytest.raises(ValueError, match=r"dof is 0.*noise='known'"):
        function(problem, few, [0, 1])
    free = changed(lambda s: s.linearisation, None)
    with pytest.raises(ValueError, match="matrix-free fit forms no J'J"):
        function(problem, free, [0, 1])
