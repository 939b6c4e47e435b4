"""Functions that JAX cannot trace, called on the host from inside a traced fit.

The fit is the same program; where it needs values it calls back (`jax.pure_callback`),
and derivatives are the user's Jacobian or differences of values.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import ArrayLike

from .._basics.checks import is_concrete, one_of
from .._basics.precision import precision
from .._programs.capture import name_of
from .._programs.known_by import Known, Same
from .differences import Scheme, difference_jacobian
from .words import from_words, numbers_of, to_words


_COUNTING = threading.Lock()  # not one of each function: those are pickled


class Slot:
    """Where a compiled program finds the function that it calls back.

    Functions of one code share a slot, and so a program: whoever fits puts its own
    function there for the time of the fit.
    """

    def __init__(self, owner: "HostFunction | None" = None):
        self.owner: Any = owner
        # One fit at a time, but where the function is the only one.
        self.lock = threading.RLock() if owner is None else contextlib.nullcontext()
        self.active = 0

    def __reduce__(self):
        """Pickled with one function it is that one's alone."""
        return Slot, (), {"owner": self.owner}


class HostFunction(Known):
    """A NumPy function that can be called on traced values; see `from_numpy`."""

    def __init__(self, fn, jac, derivative, diff_step, shape, slot: Slot | None = None):
        self.slot = Slot(self) if slot is None else slot
        self.fn, self.jac = fn, jac
        self.derivative: Scheme = derivative
        self.diff_step = diff_step
        self.shape = shape
        self.error: BaseException | None = None  # what the last failing call raised
        self.eps = 0.0  # relative error of the values, from the dtype that came
        self._shapes: dict[Any, tuple[int, ...]] = {}
        self._fits = 0  # fits of doors under way, in all threads
        self._recent: list[tuple[list[np.ndarray], np.ndarray]] | None = None
        self.__name__ = name_of(fn)
        functools.update_wrapper(self, fn, updated=())

    def known_by(self):
        """Programs call back whatever is in the slot."""
        return Same(self.slot), self.jac is None, self.derivative

    def __call__(self, *args, **kwargs):
        """`fn(*args, **kwargs)`: arrays and floats are data, the rest is fixed."""
        if is_concrete((args, kwargs)):
            return self._evaluate(*jax.tree.map(_host, (args, kwargs)))
        leaves, treedef = jax.tree.flatten((args, kwargs))
        is_data = [isinstance(leaf, jax.Array | np.ndarray | float) for leaf in leaves]
        data = [jnp.asarray(a) for a, d in zip(leaves, is_data, strict=True) if d]
        rest = [None if d else a for a, d in zip(leaves, is_data, strict=True)]
        # Derivatives by the first argument are those of a residual(params, ...), any
        # others those of a model(x, *params).
        num_first = sum(is_data[: len(jax.tree.leaves(args[:1]))])

        def rebuild(data):
            values = iter(data)
            full = [
                next(values) if d else a for a, d in zip(rest, is_data, strict=True)
            ]
            return jax.tree.unflatten(treedef, full)

        value_shape = self._shape(data, rebuild)

        slot = self.slot

        def call(*data, wide=False, shape=value_shape):
            kind = np.dtype(jnp.result_type(float, *data))
            forms = [(a.shape, np.dtype(a.dtype)) for a in data]

            def host(words):
                words = np.asarray(words)
                if words.ndim > 1:  # a batch, in one callback
                    return np.stack([host(row) for row in words])
                arrays = from_words(words, forms)
                args, kwargs = rebuild([a[()] for a in arrays])
                # JAX's precision is a matter of the thread, and this one is XLA's.
                with precision(np.finfo(kind).dtype):
                    value = slot.owner._guarded(wide, shape, args, kwargs)
                return np.ravel(value.astype(kind)).view(np.uint32)

            size = int(np.prod(shape)) * kind.itemsize // 4
            result = jax.ShapeDtypeStruct((size,), np.uint32)
            # One operand: each by itself would cost 30 us more.
            words = jnp.concatenate([to_words(a) for a in data])
            words = jax.pure_callback(host, result, words, vmap_method="broadcast_all")
            return numbers_of(words, shape, kind)

        # What is perturbed is the parameters; J is formed whole, so that the rule is
        # linear in the tangents.
        function = jax.custom_jvp(call)

        def rule(primals, tangents):
            moved = [
                i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)
            ]
            out = function(*primals)
            x = jnp.concatenate([jnp.ravel(primals[i]) for i in moved])
            t = jnp.concatenate([jnp.ravel(tangents[i]) for i in moved])

            def value(x):
                data = list(primals)
                start = 0
                for i in moved:
                    part = x[start : start + primals[i].size]
                    data[i] = part.reshape(primals[i].shape)
                    start += primals[i].size
                return call(*data).ravel()

            if self.jac is None:
                j = difference_jacobian(
                    value, x, self.derivative, self.diff_step, eps=self.eps
                )
            else:
                first = moved[0] < num_first
                params = range(num_first) if first else range(num_first, len(primals))
                sizes = [primals[i].size for i in params]
                j = call(*primals, wide=True, shape=(out.size, int(np.sum(sizes))))
                ends = np.cumsum(sizes)
                used = [
                    np.arange(end - size, end)
                    for i, size, end in zip(params, sizes, ends, strict=True)
                    if i in moved
                ]
                j = j[:, np.concatenate(used)]
            return out, (j @ t).reshape(out.shape)

        function.defjvp(rule, symbolic_zeros=True)
        return function(*data)

    def _guarded(self, wide: bool, shape: tuple[int, ...], args, kwargs):
        """A value for the solver; within a fit of a door, NaN once there was an error.

        That ends the fit, and the door raises the error as it was. Raised here, it
        would be logged and wrapped by JAX, as it is where no door looks after it.
        """
        in_fit = self._recent is not None
        if in_fit and self.error is not None:
            return np.full(shape, np.nan)
        try:
            of = self._jacobian if wide else self._evaluate
            value = of(args, kwargs)
            if value.shape != shape:
                raise ValueError(
                    f"`{self.__name__}` returned shape {value.shape} where {shape} was "
                    "expected."
                )
        except BaseException as err:
            if not in_fit:
                raise
            self.error = err
            return np.full(shape, np.nan)
        return value

    def _evaluate(self, args, kwargs):
        """The value; within a fit of a door the last two are remembered."""
        # Copies: what the function does to its arguments is its own affair.
        data = [np.array(a) for a in jax.tree.leaves((args, kwargs))]
        for known, value in self._recent or ():
            if len(known) == len(data) and all(map(_equal, known, data)):
                return value
        value = np.asarray(self.fn(*args, **kwargs))
        if value.dtype in (np.float16, np.float32):
            self.eps = float(np.finfo(value.dtype).eps)
        if self._recent is not None:
            self._recent = [*self._recent[-1:], (data, value)]
        return value

    def _jacobian(self, args, kwargs):
        j = self.jac(*args, **kwargs)
        if hasattr(j, "toarray"):  # a sparse matrix
            j = j.toarray()
        elif hasattr(j, "matmat"):  # a LinearOperator
            j = j.matmat(np.eye(j.shape[1]))
        return np.atleast_2d(j)

    def _shape(self, data, rebuild) -> tuple[int, ...]:
        """The shape of the value: told, known from a call, or found by a trial one."""
        if self.shape is not None:
            return self.shape
        key = tuple(a.shape for a in data)
        if key not in self._shapes:
            trial = [np.ones(a.shape, a.dtype) for a in data]
            self._shapes[key] = np.shape(
                self.fn(*rebuild(trial)[0], **rebuild(trial)[1])
            )
        return self._shapes[key]

    @contextlib.contextmanager
    def fit(self, *args, **kwargs):
        """For the time of one fit from these arguments: the value there.

        The value tells its shape and dtype. While the fit lasts, the last two values
        are remembered, for the solver asks at an accepted point again; a failure on the
        host is raised as it was.
        """
        # Copies: a function may write into what it is given.
        args, kwargs = jax.tree.map(
            lambda a: np.array(a) if isinstance(a, jax.Array | np.ndarray) else a,
            (args, kwargs),
        )
        with self.slot.lock:
            yield from self._fit(args, kwargs)

    def _fit(self, args, kwargs):
        slot = self.slot
        with _COUNTING:
            if not self._fits:
                self._recent, self.error = [], None
            self._fits += 1
            before, slot.owner = slot.owner, self
            slot.active += 1
        try:
            value = self._evaluate(args, kwargs)
            leaves = jax.tree.leaves((args, kwargs))
            data = [a for a in leaves if isinstance(a, np.ndarray | float)]
            self._shapes[tuple(np.shape(a) for a in data)] = value.shape
            yield value
        finally:
            with _COUNTING:
                self._fits -= 1
                slot.active -= 1
                slot.owner = before if slot.active else self
                if not self._fits:
                    self._recent = None
        if self.error is not None:
            raise self.error


def from_numpy(
    f: Callable,
    *,
    jac: Callable | None = None,
    derivative: Scheme = "2-point",
    diff_step: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
) -> HostFunction:
    """A NumPy function as one that jaxfit can fit, by calls back to the host.

    For models that JAX cannot trace: written with NumPy, or calling another program.
    Every evaluation leaves the compiled fit and comes back, and there are no second
    derivatives. A model written with `jax.numpy` is faster.

    **Arguments:**

    - `f`: `f(x, *params)` as in [`jaxfit.curve_fit`][], `fun(params, ...)` as in
        [`jaxfit.least_squares`][], or a residual or model of the kernel's. It must
        depend on its arguments alone.
    - `jac`: its Jacobian by the parameters, of shape (m, n), with the arguments of
        `f`; an array, a SciPy sparse matrix or a LinearOperator.
    - `derivative`: without `jac`, how it is found: "2-point", "3-point" or "cs"
        (complex steps, exact to rounding: `f` must accept complex parameters).
    - `diff_step`: relative size of the steps.
    - `shape`: the shape of the value. If None it is found by one call, with ones in
        place of data that are not known yet.

    **Returns:** a function to be used in the place of `f`.
    """
    if not callable(f):
        raise TypeError(f"`f` must be callable, got {type(f).__name__}.")
    if jac is not None and not callable(jac):
        raise TypeError(f"`jac` must be callable or None, got {jac!r}.")
    derivative = one_of("derivative", derivative, Scheme)
    return HostFunction(
        f, jac, derivative, diff_step, None if shape is None else tuple(shape)
    )


def _host(leaf):
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)
