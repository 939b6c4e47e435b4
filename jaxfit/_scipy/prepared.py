"""A curve fit in the kernel's terms: model, derivatives, solver, loss, start and data.

What `curve_fit` was called with is `Read`; what of it makes a program is `Prepared`,
which a result keeps to make its problem again.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .._functions.callables import Function
from .._functions.from_numpy import HostFunction
from .._programs.capture import Capture, by_identity, interned
from .._programs.kept import Memory
from .._programs.known_by import Same
from .._solve.solver import TRF
from .data import Data
from .differences import Differences, read_differences
from .host import HostLoss, called_back
from .losses import NamedLoss, ScipyLoss, read_loss
from .model import Inputs, ScipyJacobian, ScipyModel, is_cut_off
from .options import Options
from .padding import bucket, is_paddable
from .solver import curve_solver
from .start import Start


class Terms(NamedTuple):
    """What equal calls have in common: all that is none of their numbers."""

    model: ScipyModel
    jacobian: ScipyJacobian | None  # the caller's
    differences: Differences | None
    solver: TRF
    loss: NamedLoss | ScipyLoss
    f_scale: Any
    rowwise: bool
    tabular: bool  # x are the columns of a table, by name
    method: str
    hosted: bool  # something runs on the host
    calls: dict[Any, Any]  # what was found for these terms, by what finds it

    def of(self, data: Data, start: Start) -> "Prepared":
        """The fit of these data, padded to the length of their bucket if `rowwise`."""
        if self.rowwise and data.num_rows is not None:
            rows, data = data.padded(bucket(data.num_rows))
        else:
            rows = data = data.copied()
        return Prepared(*self, start, data, rows)


class Read(NamedTuple):
    """What a call of `curve_fit` says: data, start and options, and SciPy's method."""

    data: Data
    start: Start
    options: Options
    method: str


class Prepared(NamedTuple):
    """What makes the problem and the solver of one curve fit: `Terms` and numbers.

    `data` are as they were read, `rows` those that the program takes: the same, or
    with rows of padding behind where the model is `rowwise`.
    """

    model: ScipyModel
    jacobian: ScipyJacobian | None
    differences: Differences | None
    solver: TRF
    loss: NamedLoss | ScipyLoss
    f_scale: Any
    rowwise: bool
    tabular: bool
    method: str
    hosted: bool
    calls: dict[Any, Any]
    start: Start
    data: Data
    rows: Data

    @property
    def names(self) -> list[str]:
        """The names of the free parameters."""
        return [self.start.names[i] for i in self.start.free]

    @property
    def dof(self) -> int:
        """Degrees of freedom: data that count, less free parameters."""
        return self.data.count - len(self.start.free)

    def derivatives(self) -> Callable | None:
        """What stands in the place of automatic derivatives, or None.

        Asked inside `on_host`, where a host function knows how exact its values are.
        """
        if self.differences is None:
            return self.jacobian
        limits, free = self.start.limits, list(self.start.free)
        fn = self.model.fn.wrapped
        return self.differences.jacobian(self.model, fn, limits, 1, free)

    def on_host(self) -> contextlib.AbstractContextManager:
        """The time of a fit, for functions that run on the host."""
        if not self.hosted:
            return contextlib.nullcontext()
        own = None if self.jacobian is None else self.jacobian.jac.wrapped
        functions = self.model.fn.wrapped, own
        args = self.data.callers_x, *self.start.p0
        return called_back(functions, self.loss, args, {})

    def with_free(self, values: Any) -> np.ndarray:
        """All parameters, the free ones of these values."""
        p = self.start.p0.copy()
        p[list(self.start.free)] = values
        return p

    def starting(self, values: Any) -> "Prepared":
        """The same fit from other values of the free parameters."""
        start = self.start._replace(p0=self.with_free(values), guess=False)
        return self._replace(start=start)


def terms_of(f: Callable, jac: Any, read: Read, tabular: bool) -> Terms:
    """A model f(x, *params) and what was read, in the kernel's terms.

    `jac` is a callable, a scheme of differences or None.

    **Raises:** `ValueError` or `TypeError` naming what is wrong.
    """
    data, start, options, method = read
    f, capture = interned(f)
    model = by_identity(_model, f, start.free, data.rows_last, capture)
    jacobian = differences = None
    if callable(jac):
        jac, capture = interned(jac)
        jacobian = ScipyJacobian(model, Function(jac, "jac", capture), capture)
    else:
        n, dtype = start.p0.size, start.p0.dtype
        differences = read_differences(f, jac, options.diff_step, n, dtype)
    # A function on the host may be called with these data alone.
    m = None if isinstance(f, HostFunction) else data.num_rows
    if m is not None and is_cut_off(model, data.x, start.p0, m):
        raise ValueError(
            f"`xdata` has {len(data.x)} entries and `ydata` has {m}: each datum "
            "needs its own."
        )
    loss = read_loss(options.loss, method)
    own = None if jacobian is None else jacobian.jac.wrapped
    functions = f, own, loss.fn.wrapped if isinstance(loss, ScipyLoss) else None
    return Terms(
        model=model,
        jacobian=jacobian,
        differences=differences,
        solver=curve_solver(options, method, start.free, start.p0.size),
        loss=loss,
        f_scale=options.f_scale,
        rowwise=m is not None and _is_rowwise(model, jacobian, data, start),
        tabular=tabular,
        method=method,
        hosted=any(isinstance(fn, HostFunction | HostLoss) for fn in functions),
        calls={},
    )


def remembered(f: Callable, jac: Any, x: Any, read: Read) -> tuple[Any, Terms | None]:
    """What an equal call is known by (None where that is not told), and its terms.

    `x` is the caller's own. Functions are known by what they hold now. A function whose
    arrays are data of the program is not remembered: it may be given others.
    """
    data, start, options, method = read
    bare = isinstance(x, np.ndarray | jax.Array | tuple | list)
    if not options.are_plain or not bare:
        return None, None
    known: list[Any] = []
    for fn in (f, jac):
        if not callable(fn):
            known.append(fn)
        elif isinstance(fn, HostFunction) or jax.tree.structure(fn) != _LEAF:
            return None, None
        else:
            fn, capture = interned(fn)
            known += [Same(fn), capture]
    leaves, form = jax.tree.flatten(data.x)
    key = (
        *known,
        Same(options),
        method,
        start.free,
        start.p0.size,
        form,
        tuple([(np.shape(a), getattr(a, "dtype", type(a))) for a in leaves]),
        data.rows_last,
        data.num_rows,
        np.ndim(data.sigma) if isinstance(data.sigma, np.ndarray) else None,
        start.p0.dtype,
        jax.config.jax_enable_x64,  # type: ignore
    )
    return key, _TERMS.find(key)


def remember(key: Any, terms: Terms) -> None:
    """Remember the terms of a call, unless something of it runs on the host."""
    if key is not None and not terms.hosted:
        _TERMS.put(key, terms)


_LEAF = jax.tree.structure(0)
_TERMS = Memory(512)


def _model(f: Callable, free: Any, rows_last: bool, capture: Capture) -> ScipyModel:
    return ScipyModel(Function(f, "f", capture), free, rows_last, capture)


def _is_rowwise(
    model: ScipyModel, jacobian: ScipyJacobian | None, data: Data, start: Start
) -> bool:
    """Whether rows may be added to the data."""
    m = data.num_rows
    if m is None or not data.can_be_padded:
        return False
    args = Inputs(data.x, start.p0), start.p0[list(start.free)], m
    return is_paddable(model, *args) and (
        jacobian is None or is_paddable(jacobian, *args, ndim=2)
    )
