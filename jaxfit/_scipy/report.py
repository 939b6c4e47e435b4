"""SciPy's table of iterations, the callback and the progress bar of a running fit."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._basics.progress import progress_bar
from .._problem.problem import Problem
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._solve.watch import watch
from .._trf.state import State
from .messages import message


class Watching(NamedTuple):
    """What a caller wants to be told while a fit runs."""

    verbose: int = 0
    callback: Callable | None = None
    progress: bool = False

    @property
    def wanted(self) -> bool:
        return bool(self.verbose or self.progress) or self.callback is not None


def observed(
    problem: Problem,
    solver: TRF,
    watching: Watching,
    full: Callable[[np.ndarray], np.ndarray],
    fun: Callable[[np.ndarray], np.ndarray],
) -> Solution:
    """Solve the problem and tell of it.

    `full` makes of the fit's vector all parameters, and `fun` of that vector the
    residuals: what a callback is given.
    """
    reporter = _Reporter(watching, np.asarray(problem.params), full, fun)
    try:
        solution = watch(problem, solver, reporter.step)
    finally:
        reporter.close()
    most = None if solver.max_nfev is None else int(solver.max_nfev)  # type: ignore
    reporter.end(solution, message(solution.counts, most))
    return solution


class _Reporter:
    """Told of every step; `step` answers whether to stop."""

    def __init__(self, watching: Watching, start: np.ndarray, full, fun):
        self.verbose, progress = watching.verbose, watching.progress
        self.callback: Any = watching.callback
        self.full, self.fun = full, fun
        self.count = 0
        self.initial_cost: float | None = None
        self._last: tuple | None = (0, 1, None)  # iteration, nfev, step norm
        self._cost, self._x = np.nan, start
        self._bar = progress_bar(unit="step", desc="fit") if progress else None
        self._whole = self.callback is not None and _takes_result(self.callback)
        if self.verbose == 2:
            print(_HEADER)

    def step(self, state: State) -> bool:
        self._row(float(state.lin.cost), float(state.optimality))
        self.count += 1
        x = np.asarray(state.x)
        self._last = (self.count, int(state.nfev), float(np.linalg.norm(x - self._x)))
        self._x = x
        if self._bar is not None:
            self._bar.set_postfix_str(f"cost {float(state.cost):.4e}", refresh=False)
            self._bar.update()
        return self.callback is not None and self._call(state)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def end(self, solution: Solution, message: str) -> None:
        cost, optimality = float(solution.cost), float(solution.optimality)
        self._row(cost, optimality)
        if self.verbose:
            print(message)
            print(
                f"Function evaluations {int(solution.nfev)}, initial cost "
                f"{self.initial_cost:.4e}, final cost {cost:.4e}, first-order "
                f"optimality {optimality:.2e}."
            )

    def _row(self, cost: float, optimality: float) -> None:
        """The line of the point before: only now is its optimality known."""
        if self.initial_cost is None:
            self.initial_cost = cost
        if self._last is None:
            return
        iteration, nfev, step_norm = self._last
        if self.verbose == 2:
            reduction = None if iteration == 0 else self._cost - cost
            middle = "".join(
                " " * 15 if number is None else f"{number:^15.2e}"
                for number in (reduction, step_norm)
            )
            print(f"{iteration:^15}{nfev:^15}{cost:^15.4e}{middle}{optimality:^15.2e}")
        self._cost, self._last = cost, None

    def _call(self, state: State) -> bool:
        x = self.full(np.asarray(state.x))
        try:
            if not self._whole:
                return bool(self.callback(x))
            from scipy.optimize import OptimizeResult

            result = OptimizeResult(
                x=x,
                fun=self.fun(np.asarray(state.x)),
                nit=self.count,
                nfev=int(state.nfev),
                cost=float(state.cost),
            )
            return bool(self.callback(intermediate_result=result))
        except StopIteration:
            return True


_HEADER = "".join(
    f"{title:^15}"
    for title in (
        "Iteration",
        "Total nfev",
        "Cost",
        "Cost reduction",
        "Step norm",
        "Optimality",
    )
)


def _takes_result(callback: Callable) -> bool:
    """Whether the callback wants SciPy's `intermediate_result`, or x alone."""
    try:
        return set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # a built-in function has no signature
        return False
