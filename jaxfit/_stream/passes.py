"""One pass over streamed data: the linearisation at a point, and the cost at others.

Statistics of data add, so a pass is a sum over blocks. On a CPU every core has a worker
with a sum of its own, to which it adds its share of the blocks in order (block i is
worker i mod W's): the result does not depend on who was faster. One thread reads ahead.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.precision import own_settings
from .._problem.curve import CurveData
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .._programs.slices import ON_A_THREAD
from .._solve.solver import TRF
from .blocks import Block, Reading


class Sums(NamedTuple):
    """What a worker has added up."""

    lin: Any
    costs: Array  # (k,) at the other points


class Partial(NamedTuple):
    """A pass on its way: where it evaluates, and the workers' sums of `done` blocks."""

    point: Array  # (n,) where to linearise
    others: Array  # (k, n) where to evaluate the cost
    sums: list[Sums]
    done: list[int]


class InterruptedPass(Exception):
    """Raised by `run` on Ctrl-C, with how far the pass came."""

    def __init__(self, partial: Partial):
        super().__init__()
        self.partial = partial


class Pass(NamedTuple):
    """What all passes of a fit have in common."""

    problem: Problem  # without data
    solver: TRF
    blank: Any  # a linearisation's structure
    reading: Reading
    workers: int

    def begin(self, point: Array, others: Array) -> Partial:
        lin = jax.tree.map(jnp.zeros_like, self.blank)
        zero = Sums(lin, jnp.zeros(len(others), point.dtype))
        return Partial(point, others, [zero] * self.workers, [0] * self.workers)

    def run(
        self, partial: Partial, tick: Callable[[Partial], None]
    ) -> tuple[Any, np.ndarray]:
        """Linearisation and costs, continuing `partial`; `tick` is told how far it is.

        **Raises:** what reading does, and `InterruptedPass`.
        """
        crew = _Crew(self, partial)
        try:
            crew.start()
            while not crew.wait(0.05):
                tick(crew.partial)
        except KeyboardInterrupt:
            crew.stop()
            raise InterruptedPass(crew.partial) from None
        except BaseException:
            crew.stop()
            raise
        crew.stop()
        tick(crew.partial)
        if crew.error is not None:
            raise crew.error
        total, *rest = crew.partial.sums
        for sums in rest:
            total = _both(total, sums)
        return total.lin, np.asarray(total.costs)


class _Crew:
    """A thread that reads and the workers that compute."""

    def __init__(self, of: Pass, partial: Partial):
        self.of, self.partial = of, partial
        self.error: BaseException | None = None
        self._stopping, self._all_done = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._left = of.workers
        self._queues: list[queue.Queue] = [queue.Queue(1) for _ in range(of.workers)]
        # Settings of JAX belong to a thread: the others take over those of this one.
        self._wide = bool(jax.config.read("jax_enable_x64"))
        jobs = [(self._read,), *((self._work, i) for i in range(of.workers))]
        self._threads = [
            threading.Thread(target=self._guarded, args=job, daemon=True)
            for job in jobs
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        return self._all_done.wait(seconds)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _guarded(self, job: Callable, *args: Any) -> None:
        try:
            with own_settings(), jax.enable_x64(self._wide):
                job(*args)
        except BaseException as err:
            with self._lock:
                self.error = self.error or err
            self._stopping.set()
            self._all_done.set()

    def _read(self) -> None:
        workers = self.of.workers
        done = self.partial.done
        begin = min(i + workers * count for i, count in enumerate(done))
        for block in self.of.reading.blocks(begin):
            i = block.number % workers
            if block.number >= i + workers * done[i] and not self._put(i, block):
                return
        for i in range(workers):
            self._put(i, None)

    def _put(self, i: int, block: Block | None) -> bool:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queues[i].put(block, timeout=0.05)
                return True
        return False

    def _work(self, i: int) -> None:
        of, (point, others, sums, done) = self.of, self.partial
        add = _add_on_a_thread if of.workers > 1 else _add
        mine, count = sums[i], done[i]
        fixed = of.problem, of.solver, point, others
        # Where a device has memory of its own, the next block goes there while this
        # one is worked on.
        ahead = 0 if of.workers > 1 else 1
        begun: list[tuple[Block, Sums]] = []
        block = self._get(i)
        while block is not None or (begun and not self._stopping.is_set()):
            if block is not None:
                data = jax.device_put((block.x, block.y, block.sigma, block.used))
                mine = add(mine, *fixed, *data)
                begun.append((block, mine))
            while len(begun) > (0 if block is None else ahead):
                of_block, sums = begun.pop(0)
                # A model may hide a bad number: its derivatives seldom do.
                odd = sums.lin.differenced > 0
                if odd or not np.isfinite(sums.lin.cost):
                    of.reading.check_again(of_block)
                count += 1
                self._publish(i, jax.block_until_ready(sums), count)
            if block is not None:
                block = self._get(i)
        if self._stopping.is_set():
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._all_done.set()

    def _get(self, i: int) -> Block | None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                return self._queues[i].get(timeout=0.05)
        return None

    def _publish(self, i: int, sums: Sums, count: int) -> None:
        with self._lock:
            point, others, all_sums, done = self.partial
            all_sums = [*all_sums[:i], sums, *all_sums[i + 1 :]]
            done = [*done[:i], count, *done[i + 1 :]]
            self.partial = Partial(point, others, all_sums, done)


def _added(
    sums: Sums,
    problem: Problem,
    solver: TRF,
    point: Array,
    others: Array,
    x: Any,
    y: Array,
    sigma: Array | None,
    used: Array | None,
) -> Sums:
    """The sums with those of a block."""
    objective = objective_of(with_data(problem, x, y, sigma, used), point, solver)
    lin = objective.linearise(point).summary()
    costs = [objective.cost(other) for other in others]
    return Sums(sums.lin + lin, sums.costs + jnp.array(costs, sums.costs.dtype))


_add = program(_added)
# A worker for each core: XLA's own parallelism within a block would be in their way.
_add_on_a_thread = program(_added, compiler_options=ON_A_THREAD)


@program
def _both(a: Sums, b: Sums) -> Sums:
    return Sums(a.lin + b.lin, a.costs + b.costs)


def with_data(problem: Problem, x: Any, y: Any, sigma: Any, used: Any) -> Problem:
    """A problem without data given some."""
    return eqx.tree_at(
        lambda p: (p.args, p.mask),
        problem,
        (CurveData(x, y, sigma), used),
        is_leaf=lambda leaf: leaf is None,
    )
