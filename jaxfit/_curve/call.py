"""One call of `curve_fit` on its way: what the program is given, and running it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from .._basics.status import DOUBTFUL, Status
from .._functions.callables import Function
from .._functions.differences import DifferenceJacobian
from .._functions.from_numpy import HostFunction
from .._problem.problem import Problem
from .._programs.capture import Capture, identity, interned
from .._programs.fetched import Timing
from .._programs.kept import Memory
from .._scipy.buckets import bucket
from .._scipy.data import Data
from .._scipy.host import called_back
from .._scipy.leastsq_options import solver_of
from .._scipy.model import Inputs, ScipyJacobian, ScipyModel, is_cut_off
from .._scipy.options import read_differences, read_loss, with_jacobian
from .._scipy.padding import is_paddable
from .._scipy.report import Watching, observed
from .._scipy.start import Start
from .._search.guess import beginnings, candidates, sizes
from .._solve.second_opinion import second_opinion, with_counts
from .._solve.solution import Solution
from .._trf.trf import TRF
from .predict import Predictor
from .program import Given, Outcome, fit, guessed, outcome_of, problem_of
from .program import residual as residual_of


class Call:
    """A model, its data, a start and options, made ready for the program."""

    def __init__(
        self,
        f: Callable,
        jac: Any,
        options: dict[str, Any],
        method: str,
        start: Start,
        data: Data,
    ):
        f, capture = interned(f)
        self.f, self.jac, self.options, self.method = f, jac, options, method
        self.start, self.p0 = start, start.p0
        self.tabular = False  # x are the columns of a table, by name
        self.free = list(start.free)
        self.model = by_identity(_model, f, start.free, data.rows_last, capture)
        self.jacobian: Any = None
        if callable(jac):
            jac, capture = interned(jac)
            self.jacobian = ScipyJacobian(
                self.model, Function(jac, "jac", capture), capture
            )
        rows = None if isinstance(f, HostFunction) else data.num_rows
        if rows is not None and is_cut_off(self.model, data.x, self.p0, rows):
            raise ValueError(
                f"`xdata` has {len(data.x)} entries and `ydata` has {rows}: each datum "
                "needs its own."
            )
        self.rowwise = self._is_rowwise(data)
        self.num_rows, self.num_data = data.num_rows, data.count
        self._has_rows = jax.tree.map(data.is_rows, data.x)
        rows = data.num_rows if self.rowwise else None
        self.data = data.copied() if rows is None else data.padded(bucket(rows))
        self.loss = read_loss(options.get("loss", "linear"), method)
        self.solver = solver_of(options, method, start.free, self.p0.size)
        self.watching = Watching(
            options.get("verbose", 0),
            options.get("callback"),
            bool(options.get("progress", False)),
        )

    def _is_rowwise(self, data: Data) -> bool:
        """Whether rows may be added to the data."""
        rows = data.num_rows
        if isinstance(self.f, HostFunction) or rows is None or not data.can_be_padded:
            return False
        args = Inputs(data.x, self.p0), self.p0[self.free], rows
        return is_paddable(self.model, *args) and (
            self.jacobian is None or is_paddable(self.jacobian, *args, ndim=2)
        )

    @property
    def _given(self) -> Given:
        data = self.data
        return Given(
            data.x,
            data.y,
            data.sigma,
            data.mask,
            self.num_rows if self.rowwise else None,
            self.p0,
            self.start.limits,
            self.options.get("f_scale", 1.0),
        )

    @contextlib.contextmanager
    def _called_back(self) -> Iterator[None]:
        """The host's part, where the model or its Jacobian is a host function."""
        args = self.original()["xdata"], *self.p0
        with called_back((self.f, self.jac), self.loss, args, {}):
            yield

    def _derivatives(self) -> Any:
        """What stands in the place of automatic derivatives, or None."""
        return self._differences() if self.jacobian is None else self.jacobian

    def _differences(self) -> DifferenceJacobian | None:
        """Derivatives by differences, where they are asked for or the only way."""
        step = self.options.get("diff_step")
        scheme, step, eps = read_differences(self.f, self.jac, step, self.p0.size)
        if scheme is None:
            return None
        limits = self.start.limits
        if limits is not None:
            lower, upper = (jax.numpy.asarray(a)[self.free,] for a in limits)
            limits = lower, upper
        if step is not None:
            step = np.asarray(step, self.p0.dtype)
            step = step[self.free] if step.size > 1 else step
        return DifferenceJacobian(self.model, limits, step, scheme, eps, argnum=1)

    def guess(self) -> None:
        """Replace the start by one that suits the data."""
        limits = self.start.limits
        if limits is not None:
            limits = limits[0][self.free], limits[1][self.free]
        n = len(self.free)
        scale = sizes(self.data.x, self.data.y, self.p0.dtype)
        values = candidates(scale, limits, n)
        first = beginnings(n, values.shape[1])
        with self._called_back():
            _, best, _ = guessed(self.model, self.loss, self._given, values, first)
        self.p0 = self.p0.copy()
        self.p0[self.free] = best

    def run(self) -> tuple[Solution, Outcome, Timing]:
        """The fit, in one program or, where somebody watches, step by step."""
        with self._called_back():
            jacobian = self._derivatives()
            if not self.watching.wanted:
                given = self._given
                return fit(self.model, jacobian, self.solver, self.loss, given)
            begin = time.perf_counter()
            problem = problem_of(self.model, self.loss, self._given)
            solver = with_jacobian(self.solver, jacobian)
            rows = slice(self.num_rows)

            def fun(x):
                return np.asarray(residual_of(problem, x))[rows]

            solution = observed(problem, solver, self.watching, self._full, fun)
            outcome = jax.device_get(outcome_of(problem, solver, solution))
            return solution, outcome, Timing(0.0, time.perf_counter() - begin)

    def reviewed(
        self, solution: Solution, outcome: Outcome, timing: Timing
    ) -> tuple[Solution, Outcome, Timing]:
        """What `run` returned, after a closer look at a fit without a certificate."""
        if outcome.counts[0] not in DOUBTFUL:
            return solution, outcome, timing
        begin = time.perf_counter()
        with self.again() as (problem, solver):
            status = second_opinion(problem, solver, solution)
        solution = with_counts(solution, status=status)
        spent = timing.run_time + time.perf_counter() - begin
        outcome = outcome._replace(counts=np.array(solution.counts))
        if status == Status.AT_A_LIMIT:
            outcome = _without_running(outcome, int(solution.num_rows))
        return solution, outcome, timing._replace(run_time=spent)

    @contextlib.contextmanager
    def again(self) -> Iterator[tuple[Problem, TRF]]:
        """The kernel's problem of this call, without padding, and its solver."""
        data = self.original()
        x, mask = data["xdata"], data["used"]
        if self.data.rows_last:
            x = np.moveaxis(x, -1, 0)
        given = self._given._replace(
            x=x,
            y=data["ydata"],
            sigma=data["sigma"],
            mask=None if self.data.mask is None else mask,
            count=None,
        )
        with self._called_back():
            jacobian = self._derivatives()
            problem = problem_of(self.model, self.loss, given)
            yield problem, with_jacobian(self.solver, jacobian)

    def _full(self, x: np.ndarray) -> np.ndarray:
        p = self.p0.copy()
        p[self.free] = x
        return p

    def original(self) -> dict[str, Any]:
        """The data as they were fitted, in the caller's form, without padding."""
        data = self.data
        x, y, sigma, mask = data.x, data.y, data.sigma, data.mask
        if self.rowwise:

            def cut(leaf):
                return leaf[: self.num_rows] if np.ndim(leaf) else leaf

            x = jax.tree.map(lambda a, r: cut(a) if r else a, x, self._has_rows)
            y, sigma, mask = (jax.tree.map(cut, a) for a in (y, sigma, mask))
        if mask is None:
            mask = jax.tree.map(lambda a: np.ones(a.shape, bool), y)
        return {
            "xdata": np.moveaxis(x, 0, -1) if data.rows_last else x,
            "ydata": y,
            "sigma": sigma,
            "used": mask,
        }

    def predictor(self, params: np.ndarray) -> Predictor:
        return Predictor(self.model, params, self.rowwise, self.tabular)


def _model(f: Callable, free, rows_last: bool, capture: Capture) -> ScipyModel:
    return ScipyModel(Function(f, "f", capture), free, rows_last, capture)


def by_identity(make: Callable, *args) -> Any:
    """`make(*args)`, remembered; all but plain values is known by identity."""
    plain = str | tuple | Capture | None
    key = make, *(a if isinstance(a, plain) else identity(a) for a in args)
    return _MADE.get(key, lambda: make(*args))


_MADE = Memory(512)


def _without_running(outcome: Outcome, num_rows: int) -> Outcome:
    """With parameters whose errors are larger than they are as undetermined ones."""
    ways, size = outcome.directions, np.abs(np.asarray(outcome.params))
    variance = 2 * float(outcome.cost) / max(num_rows - size.size, 1)
    errors = np.sqrt(variance * np.sum(np.asarray(ways.determined) ** 2, axis=0))
    part = errors / np.where(size > 0, size, 1)
    lost = ways.lost | (part >= min(1.0, part.max()))
    return outcome._replace(directions=ways._replace(lost=lost))
