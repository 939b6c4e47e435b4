"""A batch of curve fits in slices of data, through one compiled program."""

import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh

from .._basics.machine import cores
from .._basics.status import Status
from .._programs.slices import Slices, run
from .._scipy.losses import NamedLoss, ScipyLoss
from .._scipy.model import ScipyModel
from .._solve.solver import TRF
from .data import BatchData
from .program import BatchOutcome, Choices, on_a_thread, on_devices


# What the slices in flight may take, their results included.
_SLICES_BYTES = 2**27
_SMALLEST_SLICE = 256
# Evaluations after which a fit is put off. Of ordinary fits few take so many.
_PATIENCE = 32


@dataclasses.dataclass
class Numbers:
    """The results of p fits on the host, filled slice by slice."""

    popt: np.ndarray
    pcov: np.ndarray | None
    perr: np.ndarray | None
    undetermined: np.ndarray | None
    cost: np.ndarray
    optimality: np.ndarray
    counts: np.ndarray
    active_mask: np.ndarray
    num_data: np.ndarray
    dof: np.ndarray
    differenced: np.ndarray
    interrupted: bool = False
    lane_efficiency: float = math.nan
    compile_time: float = 0.0
    run_time: float = 0.0

    @staticmethod
    def empty(p: int, n: int, covariance: bool, dtype: np.dtype) -> "Numbers":
        """Room for the results of p fits, to be filled."""
        return Numbers(
            popt=np.empty((p, n), dtype),
            pcov=np.empty((p, n, n), dtype) if covariance else None,
            perr=np.empty((p, n), dtype) if covariance else None,
            undetermined=np.empty((p, n), bool) if covariance else None,
            cost=np.empty(p, dtype),
            optimality=np.empty(p, dtype),
            counts=np.empty((p, 4), np.int32),
            active_mask=np.empty((p, n), np.int8),
            num_data=np.empty(p, np.int32),
            dof=np.empty(p, np.int32),
            differenced=np.empty(p, bool),
        )

    def stop(self, at: Any) -> None:
        """Fits that were not begun."""
        for array in self.arrays().values():
            array[at] = np.nan if array.dtype.kind == "f" else 0
        self.counts[at, 0] = Status.STOPPED

    @property
    def status(self) -> np.ndarray:
        return self.counts[:, 0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays with the fits along their first axis, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, np.ndarray)}

    def put(self, at: Any, other: "Numbers | BatchOutcome", rows: Any) -> None:
        """Take `rows` of another's arrays over to `at`."""
        for name, mine in self.arrays().items():
            mine[at] = np.asarray(getattr(other, name))[rows]

    def improved(self, rows: np.ndarray, new: "Numbers") -> "Numbers":
        """These, with those of the `rows` replaced where the new fits are better.

        Better is who converged, and among such the one of lower cost.
        """
        merged = dataclasses.replace(
            self,
            **{name: a.copy() for name, a in self.arrays().items()},
            compile_time=self.compile_time + new.compile_time,
            run_time=self.run_time + new.run_time,
            interrupted=self.interrupted or new.interrupted,
        )
        was, now = self.status[rows] > 0, new.status > 0
        began = (self.status[rows] < 0) & (new.status >= 0)
        take = np.where(was, now & (new.cost < self.cost[rows]), now | began)
        merged.put(rows[take], new, take)
        return merged


@dataclasses.dataclass(frozen=True)
class BatchCall:
    """A model and options for batches: what does not change from pass to pass."""

    model: ScipyModel
    jacobian: Callable | None
    solver: TRF
    loss: NamedLoss | ScipyLoss
    absolute_sigma: bool
    lanes: int | None
    mesh: Mesh | None
    slice_size: int | None
    progress: bool

    def fit(
        self, data: BatchData, covariance: bool, progress: bool | None = None
    ) -> Numbers:
        """The fits of `data` from their starts.

        A fit that takes many evaluations keeps its lanes waiting at the end of every
        slice: it is put off, and all of them are made again together, to their end.
        """
        bar = self.progress if progress is None else progress
        limit: Any = self.solver.max_nfev
        if limit is None or limit <= _PATIENCE:
            return self._pass(data, covariance, bar)
        hasty = eqx.tree_at(lambda s: s.max_nfev, self.solver, _PATIENCE)
        numbers = dataclasses.replace(self, solver=hasty)._pass(data, covariance, bar)
        rows = np.flatnonzero(numbers.status == Status.MAX_STEPS)
        if rows.size == 0 or numbers.interrupted:
            return numbers
        slow = dataclasses.replace(self, slice_size=_SMALLEST_SLICE)
        try:
            late = slow._pass(data.only(rows), covariance, False)
        except KeyboardInterrupt:  # while compiling: the others are done
            numbers.interrupted = True
            return numbers
        numbers.put(rows, late, slice(None))
        numbers.compile_time += late.compile_time
        numbers.run_time += late.run_time
        numbers.interrupted = late.interrupted
        return numbers

    def _pass(self, data: BatchData, covariance: bool, progress: bool) -> Numbers:
        """One pass over all fits."""
        size = data.size
        numbers = Numbers.empty(size, data.num_params, covariance, data.dtype)
        if size == 0:
            return numbers
        step, workers = self.plan(data, covariance)
        program = on_devices if self.mesh is not None else on_a_thread
        lock = threading.Lock()
        shares: list[tuple[float, int, int]] = []
        x_is_finite = data.x_is_finite

        def arguments(begin: int, end: int) -> tuple:
            which: Any = slice(begin, end)
            if end - begin < step:
                which = np.minimum(np.arange(begin, begin + step), end - 1)
            given, per_fit = data.cut(which)
            choices = Choices(
                per_fit=per_fit,
                x_is_finite=x_is_finite,
                covariance=covariance,
                absolute_sigma=self.absolute_sigma,
                lanes=self.lanes,
                mesh=self.mesh,
            )
            fixed = self.model, self.jacobian, self.solver, self.loss
            return *fixed, given, np.int32(end - begin), choices

        def put(begin: int, end: int, outcome: BatchOutcome) -> None:
            numbers.put(slice(begin, end), outcome, slice(0, end - begin))
            with lock:
                shares.append((float(outcome.lane_efficiency), begin, end))

        slices = Slices(size, step, workers, progress)
        ran = run(program, slices, data.dtype, arguments, put)
        numbers.compile_time, numbers.run_time = ran.compile_time, ran.run_time
        numbers.interrupted = not ran.whole
        if numbers.interrupted:
            missing = np.ones(size, bool)
            for _, begin, end in shares:
                missing[begin:end] = False
            numbers.stop(missing)
        if shares:
            weights = [end - begin for _, begin, end in shares]
            values = [share for share, _, _ in shares]
            numbers.lane_efficiency = float(np.average(values, weights=weights))
        return numbers

    def plan(self, data: BatchData, covariance: bool) -> tuple[int, int]:
        """The number of fits in a slice, and of slices at a time."""
        workers = 1
        if self.mesh is None and jax.default_backend() == "cpu":
            workers = cores()
        if self.slice_size is not None:
            return self.slice_size, workers
        n = data.num_params
        numbers = 3 * data.num_rows + 10 * n + 20 + 4 * n * n * covariance
        fitting = _SLICES_BYTES // (2 * data.dtype.itemsize * numbers * workers)
        longest = max(2 ** (fitting.bit_length() - 1), _SMALLEST_SLICE)
        turns = -(-data.size // (workers * longest))
        if turns > 4:
            return longest, workers  # one program for all that is long
        # Few slices should be equal, and of lengths of three digits in base two, so
        # that few programs serve all.
        step = max(-(-data.size // (workers * turns)), _SMALLEST_SLICE)
        digit = 2 ** max(step.bit_length() - 3, 0)
        return -(-step // digit) * digit, workers
