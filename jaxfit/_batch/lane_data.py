"""What the data of lanes say at their points: sums of products, block by block.

Where the residual is proven row-wise, the rows are visited a few at a time: the sums
over the rows stay in the cache however many there are, and every operation is on
vectors over the lanes. Else each lane's residual is evaluated whole.
"""

import dataclasses
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._basics.trees import on_some
from .._basics.varying import alike
from .._problem.forms import GRAM
from .._problem.objective import Objective
from .._problem.per_row import are_rows
from .._problem.problem import Problem
from .._problem.repair import lengths
from .._problem.traced import why_not_rowwise
from .._programs.abstract import abstract
from .._solve.solver import TRF
from .._trf.linearisation import Columns, is_finite
from .lane_gram import LaneGram
from .stack import Stack


# The number of lanes on a CPU; of fewer lanes more rows are visited at a time, or a
# visit costs more than what it does.
_LANES = 1024
# On other devices than CPUs, up to so many rows are visited at once.
_ROWS = 64
# Columns of J that are multiplied with one another fit a core's second-level cache: on
# one core a pass over 25 rows of 5 parameters takes 430 ns a lane in float64 and 190 in
# float32, where adding products row by row took 580 and 270.
_CACHE_BYTES = 3 * 2**19
_ALL = sys.maxsize


@dataclasses.dataclass(frozen=True)
class LaneData:
    """The residuals of the problems of a stack, `size` each, for so many lanes."""

    stack: Stack
    solver: TRF
    lanes: int
    size: int
    chunk: int  # rows whose columns of J are multiplied together
    block: int  # rows of a chunk visited at a time

    @staticmethod
    def of(stack: Stack, solver: TRF, lanes: int, nominal: int) -> "LaneData":
        """With as many rows at a time as suit the device and the `nominal` lanes.

        Those are the lanes of a whole batch of which this may be a part: with other
        blocks of rows the compiler may round in another way.

        **Raises:** what tracing the residual raises.
        """

        def describe(problem):
            x, _ = ravel_pytree(problem.params)
            objective = Objective.of(problem, x, solver, GRAM, _ALL)
            found[:] = objective.size, why_not_rowwise(problem, x, solver)
            return x

        found: list[Any] = []
        _, x = abstract(describe, stack.one)
        size, reason = found
        if reason is not None:
            return LaneData(stack, solver, lanes, size, size, size)
        fitting = _CACHE_BYTES // (_LANES * (x.size + 1) * x.dtype.itemsize)
        cpu = jax.default_backend() == "cpu"
        chunk = -(-size // -(-size // max(fitting if cpu else _ROWS, 1)))
        # Two visits or more, since only what leaves a loop is sure to be kept.
        few = max(1, min(-(-_LANES // nominal), chunk // 2)) if cpu else chunk
        block = next(b for b in range(few, 0, -1) if chunk % b == 0)
        return LaneData(stack, solver, lanes, size, chunk, block)

    def num_rows(self, problems: Problem) -> Array:
        """The number of residuals that count in each lane."""
        mask = self._mask(problems)
        if mask is None:
            return jnp.full(self.lanes, self.size, jnp.int32)
        return jnp.sum(mask, axis=0, dtype=jnp.int32)

    def linearise(self, problems: Problem, x: Float[Array, "n l"]) -> LaneGram:
        """The linearisation of each lane.

        Where derivatives are not finite and residuals are, they are replaced by
        differences in a loop that runs when a lane needs it (`_problem.repair`, and
        `Objective.linearise`).
        """
        lin = self._summed(problems, x, None)
        if self.solver.jacobian is not None:
            return lin
        needs = jnp.isfinite(lin.cost) & ~is_finite(lin)
        turns = 2 * jnp.any(needs).astype(jnp.int32)
        flag = needs.astype(lin.cost.dtype)
        lin = eqx.tree_at(lambda lin: lin.differenced, lin, flag)

        def turn(carry):
            left, x, length, lin = carry
            new = self._summed(problems, x, length)
            length = lengths(new.cost, new.column_norms)
            new = eqx.tree_at(lambda new: new.differenced, new, lin.differenced)
            lin = jax.tree.map(lambda a, b: jnp.where(needs, a, b), new, lin)
            return left - 1, jnp.where(left > 1, x, new.grad), length, lin

        start = turns, x, jnp.zeros_like(x), lin
        return jax.lax.while_loop(lambda carry: carry[0] > 0, turn, start)[-1]

    def _summed(
        self,
        problems: Problem,
        x: Float[Array, "n l"],
        length: Float[Array, "n l"] | None,
    ) -> LaneGram:
        """The sums over all rows; they are repaired where `length` is given."""
        mask, size, block = self._mask(problems), self.size, self.block
        if block == size:
            return LaneGram.of_rows(
                *self._rows(problems, x, problems.args, mask, length)
            )
        of_rows = are_rows(self.stack.one.args, size)

        def visit(start, due):
            """Rows from `start` on, of which those before `due` have been seen."""

            def cut(leaf):
                return jax.lax.dynamic_slice_in_dim(leaf, start, block)

            rows = on_some(cut, problems.args, of_rows)
            used = None if mask is None else cut(mask)
            if size % self.chunk:
                new = (start + jnp.arange(block) >= due)[:, None]
                used = new if used is None else used & new
                used = jnp.broadcast_to(used, (block, self.lanes))
            return self._rows(problems, x, rows, used, length)

        def chunk(k):
            due = k * self.chunk
            start = jnp.minimum(due, size - self.chunk)
            starts = start + jnp.arange(0, self.chunk, block)
            _, rows = jax.lax.scan(lambda c, at: (c, visit(at, due)), None, starts)
            cost, r, columns = rows
            # (visits, ..., block, lanes): one block after the other.
            if not isinstance(columns, tuple):
                columns = jnp.moveaxis(columns, 0, 1)
            flat = jax.tree.map(
                lambda a: a.reshape(*a.shape[:-3], -1, self.lanes), (cost, r, columns)
            )
            return LaneGram.of_rows(*flat)

        chunks = -(-size // self.chunk)
        if chunks == 1:
            return chunk(0)
        return jax.lax.fori_loop(
            0, chunks, lambda k, sums: sums + chunk(k), alike(LaneGram.zero(x), x)
        )

    def _rows(
        self,
        problems: Problem,
        x: Float[Array, "n l"],
        rows: Any,
        mask: Array | None,
        length: Float[Array, "n l"] | None,
    ) -> tuple[Float[Array, "b l"], Float[Array, "b l"], Columns]:
        """Cost, residual and columns of J of some rows; `mask` is (rows, lanes)."""
        mapped = self.stack.mapped(-1)
        whole = self.block == self.size

        def weighted(problem, x, rows, mask, length):
            objective = Objective.of(problem, x, self.solver, GRAM, self.block)
            rows = objective.rows if whole else rows
            return objective.weighted_rows(x, rows, mask, length)

        lanes = jax.vmap(
            weighted,
            in_axes=(
                mapped,
                -1,
                mapped.args,
                None if mask is None else -1,
                None if length is None else -1,
            ),
            out_axes=-1,
            axis_size=self.lanes,
        )
        return lanes(problems, x, rows, mask, length)

    def _mask(self, problems: Problem) -> Array | None:
        """The mask as (size, lanes), or None."""
        if problems.mask is None:
            return None
        parts = []
        for leaf, like in zip(
            jax.tree.leaves(problems.mask),
            jax.tree.leaves(self.stack.one.mask),
            strict=True,
        ):
            wide = leaf if leaf.ndim > like.ndim else leaf[..., None]
            wide = wide.reshape(-1, wide.shape[-1])
            parts.append(jnp.broadcast_to(wide, (len(wide), self.lanes)))
        return jnp.concatenate(parts)
