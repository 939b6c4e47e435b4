"""A long range cut into slices that are worked on by a few threads."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from .progress import progress_bar


# Where threads share the cores, each runs a program of its own: XLA's parallelism
# within one costs more than it brings at this size (a fifth fewer fits a second).
ON_A_THREAD = {"xla_cpu_multi_thread_eigen": False}


def in_slices(
    work: Callable[[int, int], None],
    size: int,
    step: int,
    workers: int,
    progress: bool,
) -> bool:
    """`work(begin, end)` for slices of `size` things; whether all were done.

    Ctrl-C ends it: what is being worked on is finished, the rest is not begun.
    """
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
