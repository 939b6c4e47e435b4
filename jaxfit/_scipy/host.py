"""The caller's functions that JAX cannot trace, as functions that run on the host.

SciPy's callers write with NumPy. Before a door traces a function it is tried, by one
trace at its start. Where that fails while the function itself, called there, does not,
it becomes a `HostFunction`.
"""

import contextlib
import functools
import types
import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from .._basics.checks import is_concrete, one_of, outside
from .._functions.constants import forget_other_precision
from .._functions.explain import explained, place_of, tracing_error
from .._functions.from_numpy import HostFunction, Slot
from .._programs.capture import captured, name_of, traced_call
from .._programs.kept import Memory
from .._programs.known_by import Known, Same
from .losses import ScipyLoss


Host = Literal["warn", "allow", "refuse"]


class HostFunctionWarning(UserWarning):
    """A function runs on the host, since JAX cannot trace it."""


def check_host(host: Any) -> None:
    one_of("host", host, Host)


def traced_or_hosted(
    fn: Callable,
    name: str,
    args: tuple,
    kwargs: dict[str, Any],
    host: Host,
    like: Any = None,
) -> Callable:
    """`fn` itself, or what runs it on the host where JAX cannot trace it.

    It is tried with these arguments. On the host the first of them is made again what
    `like` is, if that is given.

    **Raises:** what the function raises, where it fails on the host too;
    `UntraceableError` with `host="refuse"`.
    """
    failed = _failed_trace(fn, name, args, kwargs)
    if failed is None:
        return fn
    if host == "refuse":
        with explained(name):
            raise failed
    copies = jax.tree.map(
        lambda a: np.array(a) if isinstance(a, np.ndarray) else a,
        (args, kwargs),
    )
    if like is not None:
        fn = Rebuilt(fn, like)
    try:
        value = fn(*copies[0], **copies[1])
        array = _dense(value)
    except Exception as err:
        if tracing_error(failed) is None and type(err) is type(failed):
            raise failed from None  # the function's own error, wherever it runs
        raise err from failed
    hosted = _hosted(fn, array, _kind(value))
    if host == "warn":
        _warn(fn, name, failed)
    return hosted


def _failed_trace(fn: Callable, name: str, args: tuple, kwargs) -> Exception | None:
    """What a trace at arguments like these raises, or None. Remembered if None."""
    if isinstance(fn, HostFunction):
        return None
    capture = captured(fn)
    if capture.traced or not is_concrete((args, kwargs)):
        return None  # refused by the door, in its own words
    leaves, form = jax.tree.flatten((args, kwargs))
    kinds = jax.Array | np.ndarray | np.generic | float
    are_data = tuple(isinstance(leaf, kinds) for leaf in leaves)
    pairs = list(zip(leaves, are_data, strict=True))
    rest = tuple(Same(a) for a, data in pairs if not data)
    key = capture, form, are_data, tuple(map(np.ndim, leaves)), rest
    if _TRACEABLE.find(key):
        return None
    # What it captures may have been traced in another precision.
    forget_other_precision(fn)

    def call(data):
        values = iter(data)
        full = [next(values) if data else leaf for leaf, data in pairs]
        args, kwargs = jax.tree.unflatten(form, full)
        value = traced_call(fn, capture, *args, **kwargs)
        return jax.tree.map(jnp.asarray, value)

    try:
        jax.eval_shape(call, [leaf for leaf, data in pairs if data])
    except Exception as err:  # whatever the function raises: it is called again
        return err
    _TRACEABLE.put(key, True)
    return None


_TRACEABLE = Memory()


def _dense(value: Any) -> np.ndarray:
    """An array from one, or from a sparse matrix or a LinearOperator."""
    if hasattr(value, "toarray"):
        value = value.toarray()
    elif hasattr(value, "matmat"):
        value = value.matmat(np.eye(value.shape[1]))
    return np.asarray(value)


def model_and_jacobian(
    f: Callable, jac: Any, xdata: Any, data: Any, p0: np.ndarray, host: Host
) -> tuple[Callable, Any, dict | None]:
    """A model f(x, *params) and its Jacobian, traced or on the host.

    And, of a table that the model reads by the names of its columns, these columns,
    which are its x then.
    """
    x = np.moveaxis(data.x, 0, -1) if data.rows_last else data.x
    columns = table_columns(xdata)
    if columns is not None and _failed_trace(f, "f", (x, *p0), {}) is not None:
        x = columns
    else:
        columns = None

    def able(fn, name):
        if _failed_trace(fn, name, (x, *p0), {}) is None:
            return fn
        bare = isinstance(xdata, np.ndarray | jax.Array | list | tuple | dict)
        if bare or not hasattr(xdata, "__array__"):
            return traced_or_hosted(fn, name, (x, *p0), {}, host)
        return traced_or_hosted(fn, name, (x, *p0), {}, host, like=xdata)

    f = able(f, "f")
    return f, able(jac, "jac") if callable(jac) else jac, columns


class HostLoss(Known):
    """A loss that runs on the host: rho(z), its derivatives in the rows behind."""

    def __init__(self, rows: HostFunction):
        self.rows = rows

    def known_by(self) -> Hashable:
        return self.rows.known_by()

    def __call__(self, z):
        def row(i):
            if i == 2:
                return lambda z: self.rows(z)[2]
            value, derivative = jax.custom_jvp(lambda z: self.rows(z)[i]), row(i + 1)
            value.defjvps(lambda t, _, z: t * derivative(z))
            return value

        return row(0)(z)


def hosted_loss(loss: Any, host: Host) -> Any:
    """A user's loss, or what runs it on the host where JAX cannot trace it.

    **Raises:** `ValueError` where it does not return rho and two derivatives, stacked.
    """
    if not callable(loss) or isinstance(loss, HostFunction):
        return loss
    z = np.linspace(0.0, 2.0, 5)
    hosted = traced_or_hosted(loss, "loss", (z,), {}, host)
    if not isinstance(hosted, HostFunction):
        return loss
    shape = np.asarray(loss(z.copy())).shape
    if shape != (3, 5):
        raise ValueError(
            "The return value of `loss` callable has wrong shape: one that JAX cannot "
            f"trace must return rho, rho' and rho'' stacked, {(3, 5)} for z of shape "
            f"(5,), and returned {shape}. Write it with jax.numpy, then rho is enough."
        )
    return HostLoss(hosted)


@contextlib.contextmanager
def called_back(functions: Iterable[Any], loss: Any, args: tuple, kwargs: dict):
    """For the time of a fit from these arguments: the host's part of it."""
    with contextlib.ExitStack() as stack:
        for fn in functions:
            if isinstance(fn, HostFunction):
                stack.enter_context(fn.fit(*args, **kwargs))
        if isinstance(loss, ScipyLoss) and isinstance(loss.fn.wrapped, HostLoss):
            stack.enter_context(loss.fn.wrapped.rows.fit(np.ones(1)))
        yield


def table_columns(x: Any) -> dict[str, np.ndarray] | None:
    """The columns of a table (of pandas, say) that hold numbers, or None."""
    if isinstance(x, np.ndarray | jax.Array | dict) or not hasattr(x, "columns"):
        return None
    columns = {name: np.asarray(x[name]) for name in x.columns}
    return {name: a for name, a in columns.items() if a.dtype.kind in "biuf"}


class Rebuilt:
    """A model whose first argument is made again what its caller has: a table, say."""

    def __init__(self, fn: Callable, like: Any):
        self.fn, self.kind = fn, type(like)
        self.columns = list(getattr(like, "columns", ()))

    def __call__(self, x, *params):
        if isinstance(x, dict):
            x = {name: x[name] for name in self.columns if name in x}
        return self.fn(self.kind(x), *params)


def _kind(value: Any) -> str | None:
    """What an (m, n) matrix is, if it is no array."""
    if hasattr(value, "toarray"):
        return "sparse"
    return "operator" if hasattr(value, "matmat") else None


def matrix_of(fn: Any) -> str | None:
    """ "sparse" or "operator" for a function on the host that returns one."""
    of = fn.fn if isinstance(fn, HostFunction) else None
    return of.matrix if isinstance(of, _Dense) else None


class _Dense:
    """The function with its value made an array."""

    def __init__(self, fn: Callable, matrix: str | None):
        self.fn, self.matrix = fn, matrix
        self.__name__ = name_of(fn)

    def __call__(self, *args, **kwargs):
        return _dense(self.fn(*args, **kwargs))


def _hosted(fn: Callable, value: np.ndarray, matrix: str | None) -> HostFunction:
    """A host function that shares its program with those of the same code."""
    key = _code(fn), value.shape, value.dtype
    slot = _SLOTS.get(key, Slot)
    if slot.active:  # a fit within a fit has its own
        _SLOTS.put(key, slot := Slot())
    hosted = HostFunction(_Dense(fn, matrix), None, "2-point", None, None, slot)
    if value.dtype in (np.float16, np.float32):
        hosted.eps = float(np.finfo(value.dtype).eps)
    return hosted


_SLOTS = Memory(512)


def _code(fn: Any) -> Hashable:
    """What functions have in common that were made by one piece of code."""
    if isinstance(fn, types.FunctionType):
        return Same(fn.__code__)
    if isinstance(fn, Rebuilt):
        return Rebuilt, fn.kind, _code(fn.fn)
    if isinstance(fn, types.MethodType):
        return _code(fn.__func__)
    if isinstance(fn, functools.partial):
        return functools.partial, _code(fn.func)
    call = type(fn).__call__
    return type(fn), _code(call) if isinstance(call, types.FunctionType) else Same(fn)


def _warn(fn: Callable, name: str, failed: Exception) -> None:
    """Once for each function."""
    code = _code(fn)
    if code in _WARNED:
        return
    warnings.warn(
        f"`{name}` runs on the host: JAX cannot trace it{place_of(failed)} "
        f"({type(tracing_error(failed) or failed).__name__}). Each evaluation leaves "
        "the compiled fit, and derivatives are finite differences, less exact and "
        "slower. Written with jax.numpy (jnp.exp for np.exp, jnp.where for `if`) it is "
        "fitted as compiled code. host='allow' says nothing, host='refuse' raises.",
        HostFunctionWarning,
        stacklevel=outside(),
    )
    if len(_WARNED) >= 4096:
        _WARNED.clear()
    _WARNED.add(code)


_WARNED: set[Hashable] = set()
