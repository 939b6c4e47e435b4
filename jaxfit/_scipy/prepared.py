"""A curve fit in the kernel's terms: model, derivatives, solver, loss, start and data.

What `curve_fit` was called with is `Read`; what of it makes a program is `Prepared`,
which a result keeps to make its problem again.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._functions.callables import Function
from .._functions.from_numpy import HostFunction
from .._programs.capture import Capture, by_identity, interned
from .._solve.solver import TRF
from .data import Data
from .differences import Differences, read_differences
from .host import called_back
from .losses import NamedLoss, ScipyLoss, read_loss
from .model import Inputs, ScipyJacobian, ScipyModel, is_cut_off
from .options import Options
from .padding import bucket, is_paddable
from .solver import curve_solver
from .start import Start


class Read(NamedTuple):
    """What a call of `curve_fit` says: data, start and options, and SciPy's method."""

    data: Data
    start: Start
    options: Options
    method: str


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What makes the problem and the solver of one curve fit.

    `data` are as they were read, `rows` those that the program takes: the same, or
    with rows of padding behind where the model is `rowwise`.
    """

    model: ScipyModel
    jacobian: ScipyJacobian | None  # the caller's
    differences: Differences | None
    solver: TRF
    loss: NamedLoss | ScipyLoss
    f_scale: Any
    start: Start
    data: Data
    rows: Data
    rowwise: bool
    tabular: bool  # x are the columns of a table, by name
    method: str

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
        return dataclasses.replace(self, start=start)


def prepare(f: Callable, jac: Any, read: Read, tabular: bool) -> Prepared:
    """A model f(x, *params) and what was read, in the kernel's terms.

    `jac` is a callable, a scheme of differences or None. Data are padded to the length
    of their bucket where the model allows it.

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
    rowwise = m is not None and _is_rowwise(model, jacobian, data, start)
    if m is not None and rowwise:
        rows, data = data.padded(bucket(m))
    else:
        rows = data = data.copied()
    return Prepared(
        model=model,
        jacobian=jacobian,
        differences=differences,
        solver=curve_solver(options, method, start.free, start.p0.size),
        loss=read_loss(options.loss, method),
        f_scale=options.f_scale,
        start=start,
        data=data,
        rows=rows,
        rowwise=rowwise,
        tabular=tabular,
        method=method,
    )


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
