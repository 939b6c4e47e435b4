"""`fit_stream`: the fit of data that are read anew for each step."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree

from .._basics.checks import one_of, positive_int
from .._basics.machine import cores
from .._basics.precision import in_own_settings
from .._basics.progress import progress_bar
from .._functions.callables import Function
from .._problem.curve import Curve
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._problem.traced import why_not_rowwise
from .._programs.abstract import abstract, told_by_shapes
from .._programs.fork import check_process
from .._solve.solution import Solution
from .._solve.solve import solution_of
from .._solve.solver import TRF
from .blocks import NanPolicy, Reading
from .checkpoint import Checkpoint, CheckpointFile
from .drive import Drive
from .info import FitInfo
from .passes import Pass, with_data
from .plan import block_rows
from .resume import held, identity, restore
from .source import Source, num_rows_of
from .warm_up import Warmed, WarmUp, warmed


class StreamFit(NamedTuple):
    """What `fit_stream` returns: the `solution`, and `info` on how it came about."""

    solution: Solution
    info: FitInfo


@in_own_settings
def fit_stream(
    model: Callable[[Any, Any], Any],
    source: Source,
    p0: PyTree[ArrayLike],
    *,
    bounds: Sequence[Any] | None = None,
    loss: str | Callable = "linear",
    f_scale: ArrayLike = 1.0,
    solver: TRF | None = None,
    chunk_size: int | str = "auto",
    warm_up: WarmUp | bool = False,
    checkpoint: Any = None,
    resume: bool = True,
    nan_policy: NanPolicy = "raise",
    retries: int = 3,
    progress: bool = False,
) -> StreamFit:
    """Fit `model(x, params)` to data that need not fit the memory.

    The problem and the path to its solution are those of [`jaxfit.solve`][] of a
    [`jaxfit.curve_problem`][]: every step knows all data. They are read once a step.

    **Arguments:**

    - `model`: `model(x, params)` returns a prediction for each row of x. It must treat
        rows one by one, which is proven from its program before the first pass.
    - `source`: [`jaxfit.ArraySource`][], [`jaxfit.TableSource`][], or whatever gives
        chunks (x, y), (x, y, sigma) or (x, y, sigma, mask), the same ones each time it
        is iterated over. Rows whose mask is False, or that NumPy's masked arrays mask,
        are left out.
    - `p0`, `bounds`, `loss`, `f_scale`: as in [`jaxfit.curve_problem`][]; equal bounds
        fix a parameter.
    - `solver`: a [`jaxfit.TRF`][]. `linear_solver` is "gram" unless it says "qr";
        `trials` is also the number of radii that one pass may try.
    - `chunk_size`: rows that are worked on at a time by each core.
    - `warm_up`: True or a [`jaxfit.WarmUp`][]: come near the solution on a sample.
    - `checkpoint`: a folder, or a [`jaxfit.Checkpoint`][]. Where the folder holds a
        checkpoint of the same fit, that is continued, unless `resume` is False.
    - `nan_policy`: "raise" for an error at the first row that is not finite or has a
        sigma that is not positive, "omit" to leave such rows out, "propagate" to let
        them make the result NaN.
    - `retries`: further attempts at a chunk that cannot be read, at growing intervals.
    - `progress`: show a bar (needs tqdm).

    Ctrl-C ends the fit with `Status.STOPPED`; the solution is the best point so far,
    and a checkpoint is left. So it is where a chunk cannot be read.

    **Returns:** a [`jaxfit.StreamFit`][]: the tuple of a [`jaxfit.Solution`][] and the
    account `info`, whose entries "More data than memory" in the documentation lists.

    **Raises:** `ValueError` or `TypeError`, naming the argument or the chunk, where one
    is not as above; [`jaxfit.ReadError`][] for a chunk that could not be read;
    [`jaxfit.CheckpointError`][] for a checkpoint of another fit.
    """
    check_process()
    begun = time.perf_counter()
    check_options(solver, chunk_size, warm_up, nan_policy, retries)
    solver = _solver(TRF() if solver is None else solver)
    problem = Problem(
        Curve(Function(model, "model")), p0, None, bounds=bounds, loss=loss,
        f_scale=f_scale,
    )  # fmt: skip
    on_device = jax.default_backend() != "cpu" or solver.mesh is not None
    workers = 1 if on_device else cores()
    rows = chunk_size
    if isinstance(rows, str):
        rows = block_rows(num_rows_of(source))
    reading = Reading(source, rows, retries, nan_policy)
    first = reading.first()
    point, _ = ravel_pytree(problem.params)
    data = first.x, first.y, first.sigma, first.used
    blank = told_by_shapes(_blank, problem, solver, point, *data)
    of = Pass(problem, solver, blank, reading, workers, on_device)

    drive, file, resumed = Drive(of, problem.bounds, point), None, False
    if checkpoint is not None:
        given = Checkpoint.of(checkpoint)
        file = CheckpointFile(given, identity(problem, solver, point, reading, first))
        found = file.read() if resume else None
        if found is not None:
            resumed = True
            restore(drive, found)
    warm: Warmed | None = None
    if warm_up and not resumed:
        given = WarmUp() if warm_up is True else warm_up
        warm = warmed(problem, solver, reading, given)
        drive = Drive(of, problem.bounds, warm.point)

    watch = _Watch(file, reading, progress)
    try:
        done = drive.run(watch.tick)
    except Exception:
        if file is not None:
            file.save(held(drive))
        raise
    finally:
        watch.close()
    if file is not None:
        file.save(held(drive))
    if not done:
        done = bool(drive.state.closed)
    solution = _solution(problem, drive, not done)
    seconds = time.perf_counter() - begun
    info = FitInfo.of(
        "streamed", solution, reading, seconds, drive.passes, rows, drive.of.workers
    )
    if file is not None:
        info = dataclasses.replace(
            info,
            checkpoints=file.count,
            checkpoint_failures=file.failures,
            checkpoint_seconds=file.slowest,
            resumed=resumed,
        )
    if warm is not None:
        info = dataclasses.replace(
            info,
            warm_up_rows=warm.rows,
            warm_up_steps=warm.steps,
            warm_up_cost_ratio=warm.cost_ratio,
        )
    return StreamFit(solution, info)


def check_options(
    solver: Any, chunk_size: Any, warm_up: Any, nan_policy: Any, retries: Any
) -> None:
    """Check the options that every strategy shares."""
    if solver is not None and not isinstance(solver, TRF):
        raise TypeError(f"`solver` must be a jaxfit.TRF or None, got {solver!r}.")
    if not isinstance(chunk_size, str):
        positive_int("chunk_size", chunk_size)
    elif chunk_size != "auto":
        raise ValueError(
            f"`chunk_size` must be 'auto' or a number, got {chunk_size!r}."
        )
    if not isinstance(warm_up, bool | WarmUp):
        raise TypeError(
            f"`warm_up` must be a bool or a jaxfit.WarmUp, got {warm_up!r}."
        )
    one_of("nan_policy", nan_policy, NanPolicy)
    if not isinstance(retries, int) or retries < 0:
        raise ValueError(f"`retries` must be an integer from 0 on, got {retries!r}.")


def _solver(solver: TRF) -> TRF:
    if solver.linear_solver == "matrix_free":
        raise ValueError(
            "`solver` has linear_solver='matrix_free', which needs several passes over "
            "the data for each step: use 'gram' or 'qr'."
        )
    return solver.replaced(
        linear_solver="qr" if solver.linear_solver == "qr" else "gram"
    )


def _blank(
    problem: Problem, solver: TRF, point: Array, x: Any, y: Any, sigma: Any, used: Any
) -> Any:
    """A linearisation of NaN everywhere.

    **Raises:** `ValueError` for a model that does not treat rows one by one.
    """
    _check_rowwise(with_data(problem, x, y, sigma, used), point, solver)
    _, blank = abstract(_linearised, problem, solver, point, x, y, sigma, used)
    return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), blank)


def _check_rowwise(whole: Problem, point: Array, solver: TRF) -> None:
    def reason(whole, point):
        reasons.append(why_not_rowwise(whole, point, solver))
        return 0

    reasons: list[str | None] = []
    abstract(reason, whole, point)
    if reasons[0] is not None:
        raise ValueError(
            f"`model` does not treat rows one by one: {reasons[0]}. Its data cannot be "
            "visited in chunks. Write it so that each prediction depends on its own "
            "row of x alone, or fit in memory by jaxfit.curve_fit or jaxfit.solve."
        )


def _linearised(problem, solver, point, x, y, sigma, used):
    whole = with_data(problem, x, y, sigma, used)
    return objective_of(whole, point, solver).linearise(point).summary()


class _Watch:
    """Told how far the fit is: writes checkpoints and moves the bar."""

    def __init__(self, file: CheckpointFile | None, reading: Reading, progress: bool):
        self.file, self.reading = file, reading
        self._bar: Any = None
        if progress:
            total = reading.num_blocks
            self._bar = progress_bar(total=total, unit="chunk", desc="pass 1")

    def tick(self, drive: Drive, end_of_pass: bool) -> None:
        if self.file is not None:
            number = drive.passes if end_of_pass else None
            if self.file.is_due(number):
                self.file.save(held(drive))
        if self._bar is None:
            return
        if end_of_pass:
            self._bar.reset(drive.of.reading.num_blocks)
            self._bar.set_description(f"pass {drive.passes + 1}", refresh=False)
            cost, step = float(drive.costs[0][1]), float(drive.state.step_norm)
            self._bar.set_postfix_str(f"cost {cost:.6e}, step {step:.1e}", False)
        if drive.partial is not None:
            self._bar.n = drive.partial.done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _solution(problem: Problem, drive: Drive, interrupted: bool) -> Solution:
    state = drive.best(interrupted)
    # The residuals of a robust loss would take another pass.
    squares = None if problem.loss.rho is None else jnp.full_like(state.cost, jnp.nan)
    solution = solution_of(problem, state, squares)
    if interrupted and drive.current is None:
        # The linearisation at this point was not made; its cost is known if it is
        # not the start.
        solution = eqx.tree_at(lambda s: s.cost, solution, state.cost)
    return solution
