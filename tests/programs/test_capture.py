"""A fit never runs with what its model captured earlier.

A traced program keeps the globals, closures and attributes that it was traced with. The
doors look at what a model captures before each call, and compile anew where anything
has changed; where nothing has, they must not.

Not seen, by design: what a helper wrapped in `jax.jit` captured (JAX remembers the
helper's trace and does not look twice).
"""

import argparse
import collections
import functools
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit import CurveFit, curve_fit, from_numpy, least_squares
from jaxfit._programs.capture import captured


X = np.linspace(0.5, 2.0, 20)
Y = 6.0 * X

SETTINGS = types.ModuleType("settings_of_a_user")
SETTINGS.gain = 1.0
SETTINGS.inner = types.ModuleType("settings_of_a_user.inner")
SETTINGS.inner.gain = 1.0
sys.modules["settings_of_a_user"] = SETTINGS

number = 1.0
array = np.ones(3)
entries = [1.0, [1.0, 1.0]]
table = {"a": 1.0, "b": {"c": np.ones(2)}}
deep = 1.0
jitted_gain = property_gain = static_gain = class_gain = 1.0
namespace = types.SimpleNamespace(gain=1.0)
parsed = argparse.Namespace(gain=1.0)
queue = collections.deque([1.0])
Pair = collections.namedtuple("Pair", "first second")
pair = Pair([1.0], 2.0)


def helper(x):
    return helper_of_helper(x)


def helper_of_helper(x):
    return deep * x


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args)

    return wrapper


@decorated
def user_jitted_body(x, a):
    return jitted_gain * a * x


class Base:
    inherited = 1.0


class Gain(Base):
    """A model as an object: attributes of its own, of its class and of the base."""

    shared = 1.0

    def __init__(self):
        self.value = 1.0
        self.parts = [np.ones(2)]

    def __call__(self, x, a):
        return self.value * self.shared * self.parts[0][1] * self.inherited * a * x

    def method(self, x, a):
        return self(x, a)


class Indirect:
    """A model that reads what it captures by way of its class."""

    @property
    def by_property(self):
        return property_gain

    @staticmethod
    def by_static_method():
        return static_gain

    @classmethod
    def by_class_method(cls):
        return class_gain

    def __call__(self, x, a):
        gain = self.by_property * self.by_static_method() * self.by_class_method()
        return gain * a * x


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 1.0

    def __call__(self, x, a):
        return self.value * a * x


class Flags:
    """Captured by its class alone."""

    gain = 1.0


def make_closure():
    cell = 1.0

    def model(x, a):
        def nested(x):
            return cell * x

        return a * nested(x)

    def change(value):
        nonlocal cell
        cell = value

    return model, change


def of_globals(x, a):
    return a * x * number * array[2] * entries[1][0] * table["b"]["c"][1]


def of_containers(x, a):
    return a * x * namespace.gain * parsed.gain * queue[0] * pair.first[0]


def of_helpers(x, a):
    return a * helper(x) * Flags.gain


def of_modules(x, a):
    return a * x * settings.gain * settings.inner.gain


def with_defaults(x, a, *, gain=np.ones(1), more=(1.0,)):  # noqa: B008
    return a * x * gain[0] * more[0]


settings = SETTINGS
closure, change_cell = make_closure()
gain_object, slotted = Gain(), Slotted()
partial_parts = [1.0]
partial = functools.partial(lambda parts, x, a: parts[0] * a * x, partial_parts)
comprehension = lambda x, a: a * sum(number * x for _ in range(1))  # noqa: E731


def set_global(name):
    def change(value):
        globals()[name] = value

    return change


def set_item(container, key):
    return functools.partial(container.__setitem__, key)


def set_attribute(owner, name):
    return functools.partial(setattr, owner, name)


def set_default(value):
    with_defaults.__kwdefaults__["more"] = (value,)


# A model, and a way to multiply it by a number through what it captures.
WAYS = {
    "global number": (of_globals, set_global("number")),
    "array in place": (of_globals, set_item(array, 2)),
    "nested list in place": (of_globals, set_item(entries[1], 0)),
    "array in a dictionary": (of_globals, set_item(table["b"]["c"], 1)),
    "number in a comprehension": (comprehension, set_global("number")),
    "helper of a helper": (of_helpers, set_global("deep")),
    "class attribute by name": (of_helpers, set_attribute(Flags, "gain")),
    "simple namespace": (of_containers, set_attribute(namespace, "gain")),
    "parsed arguments": (of_containers, set_attribute(parsed, "gain")),
    "queue": (of_containers, set_item(queue, 0)),
    "list in a named tuple": (of_containers, set_item(pair.first, 0)),
    "property": (Indirect(), set_global("property_gain")),
    "static method": (Indirect(), set_global("static_gain")),
    "class method": (Indirect(), set_global("class_gain")),
    "module": (of_modules, set_attribute(SETTINGS, "gain")),
    "module in a module": (of_modules, set_attribute(SETTINGS.inner, "gain")),
    "closure and nested function": (closure, change_cell),
    "default array": (with_defaults, set_item(with_defaults.__kwdefaults__["gain"], 0)),
    "default replaced": (with_defaults, set_default),
    "attribute": (gain_object, set_attribute(gain_object, "value")),
    "attribute's item": (gain_object, set_item(gain_object.parts[0], 1)),
    "attribute of the class": (gain_object, set_attribute(Gain, "shared")),
    "attribute of the base": (gain_object, set_attribute(Base, "inherited")),
    "self of a method": (gain_object.method, set_attribute(gain_object, "value")),
    "slot": (slotted, set_attribute(slotted, "value")),
    "partial": (partial, set_item(partial_parts, 0)),
    "jitted by the user": (jax.jit(user_jitted_body), set_global("jitted_gain")),
    "jitted by equinox": (eqx.filter_jit(user_jitted_body), set_global("jitted_gain")),
}


@pytest.fixture
def restored():
    """Whatever a test changes is one again afterwards."""
    yield
    for _, change in WAYS.values():
        change(1.0)


@pytest.mark.parametrize("way", WAYS)
def test_what_changed_is_seen_and_nothing_else(way, restored):
    model, change = WAYS[way]
    model = getattr(model, "__wrapped__", model) if "jitted" in way else model
    before = captured(model)
    assert captured(model) == before and hash(captured(model)) == hash(before)
    change(2.0)
    assert captured(model) != before
    change(1.0)
    assert captured(model) == before


@pytest.mark.parametrize(
    "way",
    [
        "module",
        "closure and nested function",
        "attribute of the class",
        "partial",
        "jitted by the user",
        "jitted by equinox",
    ],
)
def test_a_fit_is_made_with_what_there_is_now(way, restored):
    """y = 6 x = a * gain * x, hence a = 6 / gain."""
    model, change = WAYS[way]
    kept = CurveFit(model)
    first = curve_fit(model, X, Y, p0=[1.0])
    np.testing.assert_allclose(first.popt, [6.0], rtol=1e-9)
    assert kept(X, 2 * Y, p0=[1.0]).compile_time == 0
    change(2.0)
    changed = kept(X, Y, p0=[1.0])
    np.testing.assert_allclose(changed.popt, [3.0], rtol=1e-9)
    np.testing.assert_allclose(changed.fitted, Y, rtol=1e-9)
    if way != "jitted by equinox":  # the same code as jax.jit's, compiled already
        assert changed.compile_time > 0
    change(1.0)
    back = curve_fit(model, X, Y, p0=[1.0])
    np.testing.assert_allclose(back.popt, [6.0], rtol=1e-9)
    assert back.compile_time == 0


def test_a_watched_fit_looks_too(restored):
    points = []
    np.testing.assert_allclose(
        curve_fit(of_globals, X, Y, callback=points.append).popt, [6.0], rtol=1e-9
    )
    entries[1][0] = 3.0
    np.testing.assert_allclose(
        curve_fit(of_globals, X, Y, callback=points.append).popt, [2.0], rtol=1e-9
    )
    entries[1][0] = 1.0


def test_a_result_never_evaluates_a_model_that_has_changed(restored):
    """Its curve is that of the fit, or there is none: never that of other values."""
    result, early = curve_fit(of_globals, X, Y), curve_fit(of_globals, X, Y)
    np.testing.assert_allclose(early.fitted, Y, rtol=1e-9)
    entries[1][0] = 3.0
    fifty = np.linspace(1.0, 2.0, 50)
    hundred = np.linspace(1.0, 2.0, 100)
    for ask, right in (
        (lambda: result.fitted, Y),
        (lambda: Y - result.residuals, Y),
        (lambda: result.predict(fifty), 6 * fifty),
        (lambda: early.predict(hundred), 6 * hundred),
        (lambda: early.confidence_band(hundred)[0], 6 * hundred),
    ):
        try:
            value = ask()
        except ValueError as err:
            assert "`f` has changed since the fit" in str(err)
        else:
            np.testing.assert_allclose(value, right, rtol=1e-9)
    np.testing.assert_allclose(early.fitted, Y, rtol=1e-9)
    entries[1][0] = 1.0
    np.testing.assert_allclose(result.predict(X[:7]), Y[:7], rtol=1e-9)


def with_an_assertion(x, a):
    """pytest rewrites this one, and puts its own modules among the globals."""
    assert x is not None
    return a * x


def test_tools_are_not_looked_into():
    def size(value):
        return 1 + sum(map(size, value)) if isinstance(value, tuple) else 1

    assert captured(with_an_assertion) == captured(with_an_assertion)
    assert size(captured(with_an_assertion)) < 100


def test_jacobians_and_losses_are_looked_at(restored):
    """A Jacobian by half makes four times the covariance."""
    y = Y + 0.1 * np.sin(40 * X)

    def jac(x, a):
        return (number * x)[:, None]

    def loss(z):
        return entries[0] * jnp.log1p(z / entries[0])

    model = WAYS["slot"][0]
    first = curve_fit(model, X, y, jac=jac, loss=loss)
    assert curve_fit(model, X, y, jac=jac, loss=loss).compile_time == 0
    WAYS["global number"][1](0.5)
    halved = curve_fit(model, X, y, jac=jac, loss=loss)
    np.testing.assert_allclose(halved.pcov, 4 * first.pcov, rtol=1e-5)
    WAYS["global number"][1](1.0)
    entries[0] = 1e-3
    robust = curve_fit(model, X, y, jac=jac, loss=loss)
    entries[0] = 1.0
    assert robust.cost < 0.5 * first.cost


def test_least_squares_looks_at_fun_jac_and_loss(restored):
    def fun(p, x):
        return of_globals(x, p[0]) - 6.0 * x

    def jac(p, x):
        return (helper(x))[:, None]

    call = functools.partial(least_squares, fun, [1.0], jac, args=(X,))
    np.testing.assert_allclose(call().x, [6.0], rtol=1e-9)
    assert call().compile_time == 0
    table["b"]["c"][1] = 2.0
    np.testing.assert_allclose(call().x, [3.0], rtol=1e-7)
    table["b"]["c"][1] = 1.0
    assert call().compile_time == 0
    WAYS["helper of a helper"][1](0.5)
    np.testing.assert_allclose(call(max_nfev=1).jac, 0.5 * X[:, None], rtol=1e-12)
    WAYS["helper of a helper"][1](1.0)
    np.testing.assert_allclose(call(max_nfev=1).jac, X[:, None], rtol=1e-12)


def test_arguments_of_least_squares_are_data_or_structure():
    def fun(p, x, gain, options):
        return options["sign"] * gain * p[0] * x - Y

    call = functools.partial(least_squares, fun, [1.0])
    first = call(args=(X, 2.0, {"sign": 1}))
    other = call(args=(X, 3.0, {"sign": 1}))
    turned = call(args=(X, 3.0), kwargs={"options": {"sign": -1}})
    np.testing.assert_allclose(
        [first.x[0], other.x[0], turned.x[0]], [3.0, 2.0, -2.0], rtol=1e-9
    )
    assert other.compile_time == 0 < turned.compile_time


def test_a_numpy_model_is_called_as_it_is_now(restored):
    model = from_numpy(lambda x, a: number * a * x)
    np.testing.assert_allclose(curve_fit(model, X, Y, [1.0]).popt, [6.0], rtol=1e-6)
    WAYS["global number"][1](2.0)
    np.testing.assert_allclose(curve_fit(model, X, Y, [1.0]).popt, [3.0], rtol=1e-6)


def test_a_recursive_structure_ends():
    loop = [1.0]
    loop.append(loop)

    def model(x, a):
        return a * x * loop[0] if a is not None else model(x, a)

    before = captured(model)
    assert captured(model) == before
    loop[0] = 2.0
    assert captured(model) != before


def test_numbers_that_are_equal_but_not_the_same_are_told_apart():
    holder = [0.0]

    def model(x, a):
        return a * x + 0 * holder[0]

    seen = []
    for value in (0.0, -0.0, 0, False, 1, True, 1.0, "1", np.float32(1), None):
        holder[0] = value
        seen.append(captured(model))
    assert len(set(seen)) == len(seen)
    holder[0] = float("nan")
    assert captured(model) == captured(model)
    a = np.arange(4)
    for value in (a, a.astype(float), a[::-1], a.reshape(2, 2)):
        holder[0] = value
        seen.append(captured(model))
    assert len(set(seen)) == len(seen)
    holder[0] = a[::-1][::-1]
    assert captured(model) == seen[-4]


def test_the_main_module_is_the_users_wherever_it_lies(monkeypatch):
    """Under a launcher (a notebook's, a test runner's) it lies among the packages."""
    main = types.ModuleType("__main__")
    main.__file__ = "/usr/lib/python3/site-packages/ipykernel_launcher.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("gain = 1.0\ndef model(x, a):\n    return gain * a * x", vars(main))
    before = captured(main.model)
    main.gain = 2.0
    assert captured(main.model) != before
