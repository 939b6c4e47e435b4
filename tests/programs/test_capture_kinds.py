"""Fit, change what the model captures, fit again: kinds of containers."""

import functools
import itertools
import weakref

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from containers import DOORS, Frozen, SameHash, Static, X, Y, change, made, objects, of

import jaxfit
from jaxfit._programs.capture import captured, interned


@pytest.mark.parametrize("kind", objects())
def test_every_kind_of_container_is_looked_into(kind):
    model, owner, at = objects()[kind]
    change(owner, at, 1.0)
    before = captured(model)
    assert captured(model) == before and hash(captured(model)) == hash(before)
    change(owner, at, 2.0)
    assert captured(model) != before
    change(owner, at, 1.0)
    assert captured(model) == before


@pytest.mark.smoke
def test_static_parts_of_a_module_are_looked_into():
    found = [
        jaxfit.curve_fit(Static(jnp.asarray(1.0), Frozen(gain=gain)), X, Y).popt[0]
        for gain in (1.0, 2.0)
    ]
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("library", ["pandas", "xarray"])
def test_tables_of_other_packages_are_looked_into(library):
    package = pytest.importorskip(library)
    if library == "pandas":
        table = package.DataFrame({"gain": [1.0, 1.0], "name": ["a", "b"]})
        model = of(lambda: table["gain"].to_numpy()[1])
        change = functools.partial(table.__setitem__, "gain")
    else:
        table = package.DataArray([1.0, 1.0], dims="x", coords={"x": [0, 1]})
        model = of(lambda: table.sel(x=1).item())
        change = functools.partial(table.__setitem__, slice(None))
    for gain in (1.0, 2.0, 2.0):
        change([5.0, gain])
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0 / gain], rtol=1e-6)
    assert fit.compile_time == 0


def test_what_cannot_be_looked_into_is_compiled_anew():
    numbers = itertools.count(1)
    model = of(lambda: 1.0 if numbers is not None else 0.0)
    assert captured(model) != captured(model)
    for _ in range(2):
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0], rtol=1e-6)
        assert fit.compile_time > 0
        np.testing.assert_allclose(fit.predict(X[:4]), Y[:4], rtol=1e-6)


class Lazy:
    """What a trace changes by itself is no change: a cache, a counter, a last value."""

    gain, calls, last = 1.0, 0, None

    @functools.cached_property
    def doubled(self):
        return 2 * self.gain

    def __call__(self, x, a):
        self.calls += 1
        self.last = a
        return a * self.doubled * x


def test_a_model_may_change_itself_when_it_is_called():
    model = Lazy()
    fit = jaxfit.curve_fit(model, X, Y, [1.0])
    np.testing.assert_allclose(fit.popt, [3.0], rtol=1e-6)
    np.testing.assert_allclose(fit.predict(X[:7]), Y[:7], rtol=1e-6)
    calls = model.calls
    again = jaxfit.curve_fit(model, X, Y, [1.0])
    assert again.compile_time == 0 and model.calls == calls > 0
    del model.doubled
    model.last = None
    model.gain = 2.0
    fit = jaxfit.curve_fit(model, X, Y, [1.0])
    np.testing.assert_allclose(fit.popt, [1.5], rtol=1e-6)

    problem = jaxfit.Problem(lambda p, data: model(X, p) - Y, np.ones(1))
    first = jaxfit.solve(problem).params
    calls = model.calls
    np.testing.assert_array_equal(jaxfit.solve(problem).params, first)
    assert model.calls == calls


def test_a_function_that_stands_for_another_is_still_what_it_was():
    """The first of two equal functions changes, and the second is asked for."""

    def make(held):
        return lambda x, a: a * held[0] * x

    one, two = [1.0], [1.0]
    first, second = make(one), make(two)
    assert interned(first)[0] is interned(second)[0] is first
    one[0] = 2.0
    fit = jaxfit.curve_fit(second, X[:13], Y[:13], [1.0])
    np.testing.assert_allclose(fit.popt, [6.0], rtol=1e-6)
    assert interned(second)[0] is second


def test_models_are_not_asked_whether_they_are_equal():
    class Loud:
        def __eq__(self, other):
            raise AssertionError("asked")

        def __hash__(self):
            raise AssertionError("asked")

        def __call__(self, x, a):
            return a * x

    for door in ("curve_fit", "batch", "solve", "solve_batch", "least_squares"):
        np.testing.assert_allclose(DOORS[door](Loud()), 6.0, rtol=1e-6)


def test_nothing_is_kept_of_a_weak_reference():
    kept = made(SameHash)
    model = of(lambda: weakref.ref(kept)().gain)
    for gain in (1.0, 2.0):
        kept.gain = gain
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0 / gain], rtol=1e-6)


class Labelled(eqx.Module):
    """A Module with a leaf, not a static field, that has no hash."""

    labels: set

    def __call__(self, x, a):
        return a * len(self.labels) * x


def test_what_has_no_hash_is_looked_into():
    for door in ("curve_fit", "solve of a curve"):
        for number in (1, 2, 3):
            found = DOORS[door](Labelled(set(range(number))))
            np.testing.assert_allclose(found, 6.0 / number, rtol=1e-6)
    fun = lambda p, held: p * len(held) * X - Y  # noqa: E731
    found = [jaxfit.least_squares(fun, [1.0], args=({*h},)).x[0] for h in ("a", "ab")]
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)
