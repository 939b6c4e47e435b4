"""The forms of linear algebra: what the rows of a problem are made into.

    TRIANGLE          R with R'R = [J r]'[J r], from rows visited block by block
    GRAM              J'J and J'r, sums of products over the same blocks
    MatrixFreeForm    s -> J'J s, of all rows at once

A form is a static value that an `Objective` carries. Another one is another class here
or in a file of its own, and a name in `Evaluation.form`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._basics.types import Vector
from .._basics.varying import alike
from .._programs.primitives import calls_host
from .._trf.algebra import UNROLL
from .._trf.linearisation import Gram, Linearisation, is_finite
from .._trf.matrix_free import MatrixFree, Slope
from .._trf.triangle import Triangle
from .once_a_row import Weighted, products, rows_once
from .per_row import visit
from .repair import lengths


Unpack = Callable[[Array], Any]
Lay = Callable[[Array], Array]


@runtime_checkable
class Form(Protocol):
    """How the rows of an objective become a linearisation."""

    # Whether all of J'J is held, as a sum over rows, which may be cut in blocks.
    dense: ClassVar[bool]

    def blank(self, objective: Any, n: int, dtype: Any) -> Any:
        """The structure of the linearisations' summaries, NaN everywhere."""
        ...

    def linearise(self, objective: Any, x: Vector) -> Linearisation:
        """The linearisation at x of all the rows of an `Objective`."""
        ...

    def joined(self, parts: Array, unpack: Unpack, lay: Lay) -> Linearisation:
        """The linearisation of shares of the rows, each one row of `parts`."""
        ...


@dataclasses.dataclass(frozen=True)
class Summed:
    """Linearisations that add: of blocks of rows, of shares on several devices."""

    kind: type[Triangle] | type[Gram]
    dense: ClassVar[bool] = True

    def blank(self, objective: Any, n: int, dtype: Any) -> Any:
        lin = self.kind.blank(n, objective.size, dtype)
        return lin.with_noise(objective.noise)

    def linearise(self, objective: Any, x: Vector) -> Linearisation:
        lin = _summed_once(self, objective, x)
        if objective.repairs:
            return _repaired_sums(lin, x, objective)
        if objective.jacobian is None and not calls_host(objective.residual.jaxpr):
            ones = jnp.ones_like(lin.differenced)
            return eqx.tree_at(lambda lin: lin.differenced, lin, ones)
        return lin

    def joined(self, parts: Array, unpack: Unpack, lay: Lay) -> Linearisation:
        if self.kind is Gram:  # one vector of each device, added: one all-reduce
            return unpack(jnp.sum(parts, axis=0))
        return Triangle.joined(jax.vmap(unpack)(lay(parts)))

    def summed(self, objective: Any, x: Vector, weighted: Weighted) -> Any:
        """The sums over all rows, of what `weighted(rows, mask)` makes of some."""

        def add(sums, rows, mask):
            part = self.kind.of_rows(*weighted(rows, mask))
            return part if sums is None else sums + part

        zero = self.kind.zero(x.size, objective.size, objective.block, x.dtype)
        total = visit(objective, alike(zero, x), add).total()
        return total.with_noise(objective.noise)


@eqx.filter_custom_jvp
def _summed_once(form: Summed, objective: Any, x: Vector) -> Any:
    """The sums over all rows, each number computed once where that is on a CPU.

    It has the derivative of sums by loops that have one. Of many parameters the columns
    are one array already.
    """
    few = x.size <= UNROLL and jax.default_backend() == "cpu"
    if form.kind is Gram and few:
        return Gram.of_products(products(objective, x))
    return form.summed(objective, x, rows_once(objective, x))


@_summed_once.def_jvp
def _(primals, tangents):
    form, *primals = primals

    def summed(objective, x):
        def weighted(rows, mask):
            return objective.weighted_rows(x, rows, mask)

        return form.summed(objective, x, weighted)

    return eqx.filter_jvp(summed, tuple(primals), tuple(tangents[1:]))


TRIANGLE, GRAM = Summed(Triangle), Summed(Gram)


@dataclasses.dataclass(frozen=True)
class MatrixFreeForm:
    """Products with J'J, at most `cg_steps` of them for a step; J is never formed."""

    cg_steps: int
    dense: ClassVar[bool] = False

    def blank(self, objective: Any, n: int, dtype: Any) -> Slope:
        return Slope.blank(n, objective.size, dtype)

    def joined(self, parts: Array, unpack: Any, lay: Any) -> Linearisation:
        raise TypeError("linearisations without a matrix are not joined from shares.")

    def linearise(self, objective: Any, x: Vector) -> MatrixFree:
        r, tangents = jax.linearize(objective.residuals, x)
        pullback = jax.linear_transpose(tangents, x)
        row_cost, r, row_scale = objective.loss.robustify(r)
        weight = 1 if row_scale is None else row_scale

        def product(s):
            return pullback(tangents(s) * weight**2)[0]

        # |J_i|^2 is the mean of (J'e)_i^2 over random signs e: an estimate from 8 of
        # them is right to about a third, and a scale need be no better.
        signs = jax.random.rademacher(jax.random.key(0), (8, r.size), r.dtype)
        signs = alike(signs, r)
        probes = jax.vmap(lambda e: pullback(e * weight)[0])(signs)
        norms = jnp.sqrt(jnp.mean(probes**2, axis=0))
        grad = pullback(r * weight)[0]
        return MatrixFree(jnp.sum(row_cost), grad, norms, product, self.cg_steps)


@eqx.filter_custom_jvp
def _repaired_sums(lin: Any, x: Vector, objective: Any) -> Any:
    """The sums `lin` at x or, where finite residuals have others, repaired ones.

    The loop runs while one of the fits of a batch needs it, so that repair costs
    nothing where all is finite; `cond` would become a `select`. The first turn leaves
    out what is not finite, to learn the lengths of the parameters; the second takes
    differences. The loop changes the x that it carries: what it makes of a constant x
    XLA would move out of it, and always compute.
    """
    needs = jnp.isfinite(lin.cost) & ~is_finite(lin)
    turns = 2 * needs.astype(jnp.int32)
    flag = needs.astype(lin.differenced.dtype)
    lin = eqx.tree_at(lambda lin: lin.differenced, lin, flag)

    def more(carry):
        return carry[0] > 0

    def turn(carry):
        left, x, length, old = carry

        def weighted(rows, mask):
            return objective.weighted_rows(x, rows, mask, length)

        lin = objective.form.summed(objective, x, weighted)
        lin = eqx.tree_at(lambda lin: lin.differenced, lin, old.differenced)
        length = lengths(lin.cost, lin.column_norms)
        return left - 1, jnp.where(left > 1, x, lin.grad), length, lin

    return jax.lax.while_loop(more, turn, (turns, x, jnp.zeros_like(x), lin))[-1]


@_repaired_sums.def_jvp
def _(primals, tangents):
    return _repaired_sums(*primals), tangents[0]
