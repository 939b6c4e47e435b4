"""A problem whose rows lie on several devices.

Statistics of rows add. So each device sums up its own share by an `Objective` traced
for that many rows, and only the sums, some n^2 numbers of each device, ever travel:

    cost, gradient, J'J     one vector of each device, added: one all-reduce
    triangles of [J r]      those of all devices, factored once more: one all-gather

The second is the tall and skinny QR of Demmel, Grigori, Hoemmen and Langou (SIAM
Journal on Scientific Computing 34, 2012). Data are never gathered. The residual has to
be row-wise (`_functions.rowwise`), as for blocks of rows, which a share may be cut into
in turn. Where it is not, data that are on a mesh stay as they are, in the Gram form:
its sums are what a compiler makes all-reduces of.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Shaped

from .._basics.trees import on_some, padded
from .._basics.types import Scalar, Vector
from .._trf.linearisation import Linearisation
from .evaluation import Evaluation
from .forms import GRAM, Form
from .objective import Objective
from .per_row import are_rows
from .placement import Split, is_on_auto_axes, split_of
from .problem import Problem
from .traced import why_not_rowwise


_ALL = sys.maxsize


class Spread(eqx.Module):
    """An objective of `size` residuals whose rows lie on several devices.

    `share` is traced for the rows of one device and holds no data. In `rows` and
    `mask` the shares stand one after the other, padded to equal lengths; `are_rows`
    tells which leaves of `rows` are cut, in the order of `jax.tree.leaves`.
    """

    share: Objective
    rows: Any
    mask: Array | None
    size: int = eqx.field(static=True)
    are_rows: tuple[bool, ...] = eqx.field(static=True)
    split: Split = eqx.field(static=True)

    @staticmethod
    def of(
        whole: Objective, problem: Problem, x: Vector, how: Evaluation, split: Split
    ) -> "Spread | str":
        """The objective `whole` with its rows spread as `split` says.

        **Returns:** a `Spread`, or as a string the reason why it cannot be.
        """
        reason = why_not_rowwise(problem, x, how)
        if reason is not None:
            return reason
        leaves, structure = jax.tree.flatten(whole.rows)
        of_rows = tuple(jax.tree.leaves(are_rows(whole.rows, whole.size)))
        count = -(-whole.size // split.parts)
        extra = count * split.parts - whole.size

        def laid(leaf):
            if extra:
                leaf = padded(leaf, whole.size + extra)
            # Laid out here, before the loop, data are not laid out within it.
            return split.lay(leaf, split.axes)

        leaves = on_some(laid, leaves, list(of_rows))
        mask = whole.mask
        if extra:
            mask = jnp.ones(whole.size, bool) if mask is None else mask
            mask = jnp.concatenate([mask, jnp.zeros(extra, bool)])
        share = _traced_share(split, problem, x, how, whole, leaves, of_rows)
        return Spread(
            share=share,
            rows=structure.unflatten(leaves),
            mask=None if mask is None else split.lay(mask, split.axes),
            size=whole.size,
            are_rows=of_rows,
            split=split,
        )

    @property
    def form(self) -> Form:
        """The form of the linearisations."""
        return self.share.form

    @property
    def has_products(self) -> bool:
        """False: sums over devices are linearisations."""
        return False

    def products(self, x: Vector) -> Array:
        """**Raises:** `TypeError`: see `has_products`."""
        raise TypeError("rows on several devices have no products.")

    def blank(self, x: Vector) -> Any:
        """The structure of this objective's linearisations, for a state's beginning."""
        return dataclasses.replace(self.share, size=self.size).blank(x)

    @property
    def num_rows(self) -> Array:
        """The number of residuals that count."""
        if self.mask is None:
            return jnp.asarray(self.size, jnp.int32)
        return jnp.sum(self.mask, dtype=jnp.int32)

    def cost(self, x: Vector) -> Scalar:
        """The cost at x: one number of each device, added."""
        return jnp.sum(self._of_shares(lambda share, x: share.cost(x), x))

    def influence_sums(self, x: Vector) -> tuple[Scalar, Scalar]:
        """sum(psi^2) and sum(psi') at x: those of each device, added."""
        both = self._of_shares(lambda share, x: jnp.stack(share.influence_sums(x)), x)
        return jnp.sum(both[:, 0]), jnp.sum(both[:, 1])

    def linearise(self, x: Vector) -> Linearisation:
        """The linearisation at x in this objective's form."""
        _, unpack = ravel_pytree(self.blank(x))
        parts = self._of_shares(lambda share, x: ravel_pytree(share.linearise(x))[0], x)
        return self.form.joined(parts, unpack, self.split.lay)

    def _of_shares(
        self, fn: Callable[[Objective, Vector], Array], x: Vector
    ) -> Shaped[Array, "parts ..."]:
        """What `fn` makes of each device's own rows, one below the other.

        In here no device hears of another, so derivatives and batches of it are those
        of a plain function, and the sum over devices is made outside.
        """
        arrays, rest = eqx.partition(self.share, eqx.is_array)
        leaves, structure = jax.tree.flatten(self.rows)

        def part(leaves, mask, arrays, x):
            share = eqx.combine(arrays, rest)
            own = structure.unflatten(leaves)
            return fn(dataclasses.replace(share, rows=own, mask=mask), x)[None]

        on_shares = self.split.mapped(part, self.are_rows)
        return on_shares(leaves, self.mask, arrays, x)


def _traced_share(split, problem, x, how, whole, leaves, of_rows) -> Objective:
    """The objective of one device's rows, traced where it will run, without data."""
    made = []
    structure = jax.tree.structure(whole.rows)

    def trace(leaves, mask, arrays, x):
        local = eqx.tree_at(
            lambda p: (p.args, p.mask),
            problem,
            (structure.unflatten(leaves), mask),
            is_leaf=lambda node: node is None,
        )
        made.append(Objective.of(local, x, how, whole.form))
        return x

    jax.eval_shape(split.mapped(trace, of_rows), leaves, None, None, x)
    return dataclasses.replace(made[0], rows=None)


def objective_of(
    problem: Problem, x: Vector, how: Evaluation, axes: tuple[str, ...] | None = None
) -> Objective | Spread:
    """The problem as the loop sees it, wherever its rows are.

    `axes` are those of the mesh at hand that the rows lie along, as `on_auto_axes`
    tells. Parameters `x` are there for their shape.

    **Raises:** what `Objective.of` does; `ValueError` for a solver with a mesh and a
    residual that is not row-wise.
    """
    split = split_of(how, axes)
    if split is None and not is_on_auto_axes(problem.args):
        return Objective.of(problem, x, how)
    # What is left whole is never cut in blocks: they would be gathered.
    block = _ALL if how.chunk_size == "auto" else None
    if how.linear_solver == "matrix_free":
        whole = Objective.of(problem, x, how, None, block)
        return whole if split is None else _laid(whole, split)
    if split is not None:
        whole = Objective.of(problem, x, how, None, _ALL)
        spread = Spread.of(whole, problem, x, how, split)
        if isinstance(spread, Spread):
            return spread
        if how.mesh is not None:
            raise ValueError(
                f"`mesh` is given, but the residual is not row-wise: {spread}. Write "
                "it so that each residual depends on its own row of the data alone, "
                "all data passed as `args` (or `x` and `y`). Or leave `mesh` out, and "
                "put the data on it by jax.device_put: then the compiler spreads them."
            )
    form: Form | None = GRAM if how.linear_solver == "auto" else None
    return Objective.of(problem, x, how, form, block)


def _laid(whole: Objective, split: Split) -> Objective:
    of_rows = are_rows(whole.rows, whole.size)
    rows = on_some(lambda leaf: split.lay(leaf, split.axes), whole.rows, of_rows)
    return dataclasses.replace(whole, rows=rows)
