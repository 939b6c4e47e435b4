"""A program run on the slices of a long range, by a few threads.

It is compiled before they begin, by the thread that asks: so none of them waits for
another's compiler, and the time that it takes is told apart.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from .._basics.precision import precision
from .._basics.progress import progress_bar
from .program import Program


# Where threads share the cores, each runs a program of its own: XLA's parallelism
# within one costs more than it brings at this size (a fifth fewer fits a second).
ON_A_THREAD = {"xla_cpu_multi_thread_eigen": False}


class Slices(NamedTuple):
    """So many fits in slices of `step`, by so many threads; `progress` shows a bar."""

    size: int
    step: int
    workers: int
    progress: bool = False


class Ran(NamedTuple):
    """Whether all slices were done, and the seconds of compiling and of running."""

    whole: bool
    compile_time: float
    run_time: float


def run(
    program: Program,
    slices: Slices,
    dtype: np.dtype,
    arguments: Callable[[int, int], tuple],
    put: Callable[[int, int, Any], None],
) -> Ran:
    """Run `program(*arguments(begin, end))` for each slice, in the precision of dtype.

    `put(begin, end, value)` is given each value, on the host, by the thread that has
    it. Ctrl-C ends it: what is being worked on is finished, the rest is not begun.
    """
    begun = time.perf_counter()
    with precision(dtype):
        program.ready(*arguments(0, min(slices.step, slices.size)))
    compiled = time.perf_counter()

    def work(begin: int, end: int) -> None:
        # Threads have JAX's settings of the process, not those of their caller.
        with precision(dtype):
            put(begin, end, jax.device_get(program(*arguments(begin, end))))

    whole = _work_off(slices, work)
    return Ran(whole, compiled - begun, time.perf_counter() - compiled)


def _work_off(of: Slices, work: Callable[[int, int], None]) -> bool:
    """`work(begin, end)` for each slice; False where Ctrl-C ended it."""
    size, step, workers, progress = of
    slices = iter([(i, min(i + step, size)) for i in range(0, size, step)])
    with _bar(size, progress) as advance, ThreadPoolExecutor(workers) as pool:
        running: dict[Any, int] = {}
        try:
            while True:
                # One in reserve for each worker, so that none waits for this thread.
                while len(running) < 2 * workers:
                    piece = next(slices, None)
                    if piece is None:
                        break
                    running[pool.submit(work, *piece)] = piece[1] - piece[0]
                if not running:
                    return True
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    advance(running.pop(future))
                    future.result()
        except KeyboardInterrupt:
            for future in running:
                future.cancel()
            wait(running)
            return False
        except BaseException:
            for future in running:
                future.cancel()
            raise


@contextlib.contextmanager
def _bar(size: int, progress: bool) -> Iterator[Callable[[int], Any]]:
    if not progress:
        yield lambda count: None
        return
    with progress_bar(total=size, unit="fit", desc="fits", unit_scale=True) as bar:
        yield bar.update
