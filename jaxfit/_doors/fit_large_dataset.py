"""`fit_large_dataset`: SciPy's call for data of any size.

Data that fit the memory are fitted there; else they are streamed. `plan` decides, from
sizes alone, and `info` says what was done.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._basics.precision import in_own_settings, precision
from .._basics.status import Status
from .._curve.outcome import warn_of_covariance
from .._curve.result import FitError
from .._functions.callables import Function
from .._functions.signature import signature_of
from .._problem.curve import Curve
from .._problem.problem import Problem
from .._programs.capture import interned
from .._programs.fork import check_process
from .._scipy.model import Inputs, ScipyModel
from .._scipy.options import unjitted
from .._scipy.pcov import pcov_of
from .._scipy.start import Start, read_start, with_own_estimate
from .._solve.solution import Solution
from .._solve.solve import solve
from .._solve.solver import TRF
from .._stream.arrays import ArraySource
from .._stream.blocks import NanPolicy, Reading
from .._stream.fit_stream import check_options, fit_stream
from .._stream.info import FitInfo, LargeFitInfo
from .._stream.mapped import SourceChangedError
from .._stream.passes import with_data
from .._stream.plan import Plan, Strategy, plan
from .._stream.source import Source, num_rows_of
from .._stream.tables import TableSource
from .._stream.warm_up import WarmUp


class LargeFit(NamedTuple):
    """The tuple (popt, pcov, info) of [`jaxfit.fit_large_dataset`][]."""

    popt: np.ndarray
    pcov: np.ndarray
    info: LargeFitInfo


@in_own_settings
def fit_large_dataset(
    f: Callable,
    xdata: Any,
    ydata: Any = None,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: Any = (-np.inf, np.inf),
    *,
    memory_limit_gb: float | int | None = None,
    chunk_size: int | Literal["auto"] = "auto",
    strategy: Strategy | Literal["auto"] = "auto",
    solver: TRF | None = None,
    loss: str | Callable = "linear",
    f_scale: ArrayLike = 1.0,
    fixed: Mapping[str, float] | Any = None,
    mask: Any = None,
    nan_policy: NanPolicy = "raise",
    warm_up: WarmUp | bool = False,
    checkpoint: Any = None,
    resume: bool = True,
    retries: int = 3,
    progress: bool = False,
) -> LargeFit:
    """Fit `f(x, *params)` to as many data as there are.

    The answer is that of [`jaxfit.curve_fit`][], whichever way the data go: every step
    knows all of them.

    **Arguments:**

    - `f`: the model, written with `jax.numpy`, as for [`jaxfit.curve_fit`][]. Rows must
        be treated one by one unless the strategy is "in_memory".
    - `xdata`, `ydata`, `sigma`: arrays in memory or on disk (NumPy, h5py, Zarr), x with
        rows first or, of shape (k, M), last; or `xdata` alone, a source as for
        [`jaxfit.fit_stream`][].
    - `p0`, `absolute_sigma`, `bounds`, `fixed`: as in [`jaxfit.curve_fit`][]. With
        p0=None a model's own `f.estimate_p0(xdata, ydata)` is given some 16,000 rows,
        taken evenly from all, which costs a pass unless the data are arrays.
    - `mask`: booleans like `ydata`: False leaves a row out.
    - `memory_limit_gb`: gigabytes (10^9 bytes) that the fit may take, None for four
        fifths of what is free.
    - `strategy`: "in_memory", "chunked", "streamed", or "auto" for the choice of
        [`jaxfit.plan`][]; a source of unknown length is streamed.
    - `solver`: a [`jaxfit.TRF`][]; `loss`, `f_scale`: as in [`jaxfit.curve_problem`][].
    - `chunk_size`, `nan_policy`, `warm_up`, `checkpoint`, `resume`, `retries`,
        `progress`: as in [`jaxfit.fit_stream`][]. Only what is streamed has a bar,
        checkpoints and a warm-up.

    Numbers are computed in float64 unless `p0` is a float32 JAX array.

    **Returns:** the tuple (popt, pcov, info), with names. `info.solution` is the
    [`jaxfit.Solution`][] of the free parameters.

    **Raises:** `ValueError` or `TypeError`, naming the argument; [`jaxfit.FitError`][]
    where no minimum was found, with the tuple in its `result`.

    **Warns:** `scipy.optimize.OptimizeWarning` where the covariance could not be
    estimated.
    """
    check_process()
    begun = time.perf_counter()
    f = unjitted(f)
    if not callable(f):
        raise TypeError(f"`f` must be callable, got {type(f).__name__}.")
    check_options(solver, chunk_size, warm_up, nan_policy, retries)
    source, rows_last = _source(xdata, ydata, sigma, mask)
    narrow = isinstance(p0, jax.Array) and p0.dtype == np.float32
    dtype = np.dtype(np.float32 if narrow else np.float64)
    reading = functools.partial(_sample, source, rows_last, retries, nan_policy)
    p0 = with_own_estimate(p0, f, reading)
    start = read_start(signature_of(f), p0, bounds, fixed, False, dtype)
    if start.guess:
        raise ValueError(
            "`p0='auto'` would look at all data: give numbers, and warm_up=True to "
            "come near the solution on a sample of the data."
        )
    given = {"nan_policy": nan_policy, "retries": retries}
    solver = TRF() if solver is None else solver
    num_rows = num_rows_of(source)
    if num_rows is not None and num_rows < len(start.free):
        raise TypeError(
            f"The number of func parameters={len(start.free)} must not exceed the "
            f"number of data points={num_rows}."
        )
    with precision(dtype):
        model = _model(f, start, rows_last)
        limits = start.limits
        if limits is not None:
            limits = tuple(side[list(start.free)] for side in limits)
        of: dict[str, Any] = {"bounds": limits, "loss": loss, "f_scale": f_scale}
        first = start.p0[list(start.free)]
        way = _way(
            source, len(start.free), dtype, memory_limit_gb, chunk_size, strategy
        )
        if way.strategy == "streamed":
            solution, info = fit_stream(
                model,
                source,
                first,
                **of,
                **given,
                solver=solver,
                chunk_size=way.chunk_size or "auto",
                warm_up=warm_up,
                checkpoint=checkpoint,
                resume=resume,
                progress=progress,
            )
        else:
            problem = Problem(Curve(Function(model, "f")), first, None, **of)
            solution, info = _in_memory(problem, source, solver, way, begun, given)
        covariance = np.asarray(pcov_of(solution, absolute_sigma))
    told = LargeFitInfo(**info, plan=way, solution=solution)
    return _result(start, covariance, told)


class _Model(eqx.Module):
    """`f` as the kernel's model(x, params) of the free parameters."""

    model: ScipyModel
    start: Float[Array, " n"]

    def __call__(self, x: Any, params: Array) -> Any:
        return self.model(Inputs(x, self.start), params)


def _model(f: Callable, start: Start, rows_last: bool) -> _Model:
    f, capture = interned(f)
    model = ScipyModel(Function(f, "f", capture), start.free, rows_last, capture)
    return _Model(model, jax.numpy.asarray(start.p0))


def _source(xdata: Any, ydata: Any, sigma: Any, mask: Any) -> tuple[Source, bool]:
    """The data as a source, and whether f is to see the rows of x last."""
    if ydata is None:
        if sigma is not None:
            raise ValueError("`sigma` comes with `ydata`; a source gives its own.")
        if mask is not None:
            raise ValueError("`mask` comes with `ydata`; a source gives its own.")
        return xdata, bool(getattr(xdata, "rows_last", False))
    if isinstance(ydata, list | tuple):
        ydata = np.asarray(ydata)
    if isinstance(xdata, list):
        xdata = np.asarray(xdata)
    if isinstance(sigma, list | tuple):
        sigma = np.asarray(sigma)
    if sigma is not None and getattr(sigma, "shape", ()) == (1,):
        sigma = float(sigma[0])
    shape = tuple(getattr(xdata, "shape", ()))
    rows = getattr(ydata, "shape", (0,))[:1]
    rows_last = len(shape) > 1 and shape[-1:] == rows
    return ArraySource(xdata, ydata, sigma, rows_last=rows_last, mask=mask), rows_last


_SAMPLE = 2**14  # rows that a model's own estimate of its start is given


def _sample(
    source: Source, rows_last: bool, retries: int, nan_policy: NanPolicy
) -> tuple[Any, np.ndarray]:
    """x, as f sees it, and y of good rows taken evenly from the data."""
    x, y, *_ = Reading(source, _SAMPLE, retries, nan_policy).sample(_SAMPLE)
    return np.moveaxis(x, 0, -1) if rows_last else x, y


def _way(
    source: Source,
    n: int,
    dtype: np.dtype,
    limit: float | int | None,
    chunk_size: int | Literal["auto"],
    strategy: Strategy | Literal["auto"],
) -> Plan:
    num_rows = num_rows_of(source)
    if num_rows is None:
        if strategy not in ("auto", "streamed"):
            raise ValueError(
                f"`strategy` is {strategy!r}, and the number of rows is not known: a "
                "source without `num_rows` is streamed."
            )
        strategy, num_rows = "streamed", 2**18
    columns = 2
    if isinstance(source, ArraySource):
        shapes = [leaf.shape for leaf in jax.tree.leaves(source.x)]
        columns = int(sum(np.prod(shape) for shape in shapes)) // num_rows + 1
        columns += int(source.sigma is not None)
    elif isinstance(source, TableSource):
        columns = len(jax.tree.leaves(source.x)) + 1 + int(source.sigma is not None)
    return plan(
        num_rows,
        n,
        dtype,
        limit,
        columns=columns,
        chunk_size=chunk_size,
        strategy=strategy,
    )


def _in_memory(
    problem: Problem,
    source: Source,
    solver: TRF,
    way: Plan,
    begun: float,
    given: dict[str, Any],
) -> tuple[Solution, FitInfo]:
    """The fit of all data at once."""
    num_rows = num_rows_of(source)
    assert num_rows is not None  # else it is streamed
    reading = Reading(source, num_rows, given["retries"], given["nan_policy"])
    blocks = reading.blocks(0)
    block = next(blocks)
    if next(blocks, None) is not None:
        raise SourceChangedError(
            f"the source gave more rows in this pass than its `num_rows`, {num_rows}."
        )
    problem = with_data(problem, block.x, block.y, block.sigma, block.used)
    if way.strategy == "in_memory":
        solver = solver.replaced(chunk_size=None)
    solution = jax.block_until_ready(solve(problem, solver))
    seconds = time.perf_counter() - begun
    passes = int(solution.nfev + solution.njev)
    rows = way.chunk_size
    info = FitInfo.of(way.strategy, solution, reading, seconds, passes, rows, 1)
    return solution, info


def _result(start: Start, covariance: np.ndarray, info: LargeFitInfo) -> LargeFit:
    """The tuple, or the error that it is."""
    free, n = list(start.free), start.p0.size
    popt = start.p0.copy()
    popt[free] = info.solution.params
    pcov = np.zeros((n, n), popt.dtype)
    pcov[np.ix_(free, free)] = covariance
    lost = ~np.isfinite(np.diag(covariance))
    if lost.any():
        pcov = np.full_like(pcov, np.inf)
    result = LargeFit(popt, pcov, info)
    status = info.status
    if status <= 0 and status != Status.STOPPED:
        raise FitError(f"Optimal parameters not found: {info.message}", result)
    if lost.any() and status > 0:
        infinite = np.isinf(np.diag(covariance))
        names = tuple(start.names[free[i]] for i in np.flatnonzero(infinite))
        warn_of_covariance(names)
    return result
