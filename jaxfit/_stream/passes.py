"""One pass over streamed data: the linearisation at a point, and the cost at others.

Statistics of data add, so a pass is a sum over blocks. One thread reads ahead, and on a
CPU each core has a worker that takes the next block and makes its statistics. They are
added in the order of the blocks: the result depends neither on who was faster nor on
how many there are.
"""

import contextlib
import dataclasses
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
    """What blocks of data say."""

    lin: Any
    costs: Array  # (k,) at the other points


class Partial(NamedTuple):
    """A pass on its way: where it evaluates, the sums of the first `done` blocks."""

    point: Array  # (n,) where to linearise
    others: Array  # (k, n) where to evaluate the cost
    sums: Sums
    done: int


class InterruptedPass(Exception):
    """Raised by `run` on Ctrl-C, with how far the pass came."""

    def __init__(self, partial: Partial):
        super().__init__()
        self.partial = partial


@dataclasses.dataclass(frozen=True)
class Pass:
    """What all passes of a fit have in common."""

    problem: Problem  # without data
    solver: TRF
    blank: Any  # a linearisation's structure
    reading: Reading
    workers: int
    # Whether blocks go to a device with memory of its own, or to several devices.
    on_device: bool = False
    # Programs of this fit, by what blocks are like.
    programs: dict[Any, Callable] = dataclasses.field(default_factory=dict)

    def begin(self, point: Array, others: Array) -> Partial:
        lin = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self.blank)
        none = np.zeros(len(others), point.dtype)
        return Partial(point, others, Sums(lin, jnp.asarray(none)), 0)

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
        return crew.partial.sums.lin, np.asarray(crew.partial.sums.costs)

    def fixed(self, point: Array, others: Array) -> list[Any]:
        """The leaves of what is the same for all blocks of a pass."""
        return jax.tree.leaves((self.problem, self.solver, point, others))

    def summed(self, partial: Partial, fixed: list[Any], block: Block) -> Sums:
        """What a block says, given the `fixed` leaves; on a device not yet maybe."""
        data = block.x, block.y, block.sigma, block.used
        leaves, form = jax.tree.flatten(data)
        _, others, _, _ = partial
        key = len(others), form, *(leaf.dtype for leaf in leaves)
        call = self.programs.get(key)
        if call is None:
            # A worker for each core: XLA's own parallelism would be in their way.
            sums = _summed if self.on_device else _summed_on_a_thread
            call = sums.like(self.problem, self.solver, partial.point, others, *data)
            self.programs[key] = call
        if self.on_device:
            leaves = jax.device_put(leaves)
        return call([*fixed, *leaves])

    def added(self, a: Sums, b: Sums) -> Sums:
        """The sums of both."""
        key = "added", len(a.costs)
        call = self.programs.get(key)
        if call is None:
            call = self.programs[key] = _added.like(a, b)
        return call(jax.tree.leaves((a, b)))


class _Crew:
    """A thread that reads and the workers that compute."""

    def __init__(self, of: Pass, partial: Partial):
        self.of, self.partial = of, partial
        self.error: BaseException | None = None
        self._stopping, self._all_done = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._left = of.workers
        self._blocks: queue.Queue[Block | None] = queue.Queue(of.workers)
        # Sums of blocks whose predecessors are still worked on, by number.
        self._early: dict[int, Sums] = {}
        # Settings of JAX belong to a thread: the others take over those of this one.
        self._wide = bool(jax.config.read("jax_enable_x64"))
        self._threads = [
            threading.Thread(target=self._guarded, args=(job,), daemon=True)
            for job in (self._read, *[self._work] * of.workers)
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

    def _guarded(self, job: Callable) -> None:
        try:
            with own_settings(), jax.enable_x64(self._wide):
                job()
        except BaseException as err:
            with self._lock:
                self.error = self.error or err
            self._stopping.set()
            self._all_done.set()

    def _read(self) -> None:
        for block in self.of.reading.blocks(self.partial.done):
            if not self._put(block):
                return
        for _ in range(self.of.workers):
            self._put(None)

    def _put(self, block: Block | None) -> bool:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(block, timeout=0.05)
                return True
        return False

    def _get(self) -> Block | None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                return self._blocks.get(timeout=0.05)
        return None

    def _work(self) -> None:
        of, partial = self.of, self.partial
        fixed = of.fixed(partial.point, partial.others)
        # Where a device has memory of its own, the next block goes there while this
        # one is worked on.
        ahead = 1 if of.on_device else 0
        begun: list[tuple[Block, Sums]] = []
        block = self._get()
        while block is not None or (begun and not self._stopping.is_set()):
            if block is not None:
                begun.append((block, of.summed(partial, fixed, block)))
            while len(begun) > (0 if block is None else ahead):
                self._add(*begun.pop(0))
            if block is not None:
                block = self._get()
        if self._stopping.is_set():
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._all_done.set()

    def _add(self, block: Block, sums: Sums) -> None:
        """Add the sums of a block, and of those that waited for it."""
        odd = np.asarray(sums.lin.differenced) > 0
        # A model may hide a bad number: its derivatives seldom do.
        if odd or not np.isfinite(np.asarray(sums.lin.cost)):
            self.of.reading.check_again(block)
        with self._lock:
            self._early[block.number] = sums
            point, others, total, done = self.partial
            while done in self._early:
                total = self.of.added(total, self._early.pop(done))
                done += 1
            self.partial = Partial(point, others, total, done)


def _summed_rows(
    problem: Problem,
    solver: TRF,
    point: Array,
    others: Array,
    x: Any,
    y: Array,
    sigma: Array | None,
    used: Array | None,
) -> Sums:
    """The sums of a block."""
    objective = objective_of(with_data(problem, x, y, sigma, used), point, solver)
    lin = objective.linearise(point).summary()
    costs = [objective.cost(other) for other in others]
    return Sums(lin, jnp.array(costs, point.dtype))


_summed = program(_summed_rows)
_summed_on_a_thread = program(_summed_rows, compiler_options=ON_A_THREAD)


@program
def _added(a: Sums, b: Sums) -> Sums:
    return Sums(a.lin + b.lin, a.costs + b.costs)


def with_data(problem: Problem, x: Any, y: Any, sigma: Any, used: Any) -> Problem:
    """A problem without data given some."""
    return eqx.tree_at(
        lambda p: (p.args, p.mask),
        problem,
        (CurveData(x, y, sigma), used),
        is_leaf=lambda leaf: leaf is None,
    )
