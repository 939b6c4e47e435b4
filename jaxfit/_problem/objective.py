"""A problem as the loop sees it: `cost(x)` and `linearise(x)` of a vector x.

The only place that sees data. Rows whose mask is False become zeros in the residual and
in every derivative. Statistics of rows add: where the residual is proven row-wise
(`_functions.rowwise`) and the data do not fit the cache, they are visited block by
block and nothing as long as the data is ever made.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._basics.once import only_where
from .._basics.types import Scalar, Vector
from .._functions.differences import DifferenceJacobian
from .._programs.primitives import calls_host
from .._trf.bounds import Bounds
from .._trf.linearisation import Columns, Linearisation
from .chunks import block_of
from .derivatives import Mode, columns, mode_of
from .evaluation import Evaluation
from .forms import TRIANGLE, Form
from .loss import Loss
from .once_a_row import products
from .per_row import cut_rows
from .problem import Problem
from .repair import lengths, repaired
from .traced import traced


class Objective(eqx.Module):
    """1/2 C^2 sum(rho(r(x)^2 / C^2)) of m residuals and n parameters.

    `residual(x, rows)` is the traced residual with everything else that it closes over,
    `rows` all the data, `block_residual` the same traced for a block of rows. Arrays
    among the fields may be differentiated and batched.
    """

    residual: Callable[[Vector, Any], Array]
    block_residual: Callable[[Vector, Any], Array]
    rows: Any
    mask: Array | None
    loss: Loss
    bounds: Bounds | None  # which differences respect
    jacobian: Callable[[Vector, Any], Array] | None
    size: int = eqx.field(static=True)
    block: int = eqx.field(static=True)  # rows visited at a time
    form: Form = eqx.field(static=True)
    mode: Mode = eqx.field(static=True)
    noise: float = eqx.field(static=True)  # relative error of columns of J

    @staticmethod
    def of(
        problem: Problem,
        x: Vector,
        how: Evaluation,
        form: Form | None = None,
        block: int | None = None,
    ) -> "Objective":
        """Trace the problem's residual at parameters `x` (only shapes matter).

        `block` rows are visited at a time, which must be all of them unless the
        problem is row-wise. Form and block are chosen here where they are None.

        **Raises:** `ValueError` where the residual is empty, does not match the mask or
        cannot be cut into the blocks asked for; `TypeError` where it is not real.
        """
        rows = problem.args
        program, jacobian = traced(problem, x, how, rows)
        size = program.out_struct.size
        mask = None if problem.mask is None else ravel_pytree(problem.mask)[0]
        if mask is not None and mask.size != size:
            raise ValueError(f"`mask` has {mask.size} entries for {size} residuals.")
        if form is None:
            form = how.form(size, x.size)
        if block is None:
            block = block_of(problem, x, how, form, (program, jacobian))
        mode: Mode = how.mode
        if how.jacobian is None and form.dense:
            mode = mode_of(program, x, rows, size, how.mode)
        block = min(block, size)
        block_program = program
        if block < size:
            part = cut_rows(rows, size, 0, block)
            block_program, jacobian = traced(problem, x, how, part)
        return Objective(
            residual=program,
            block_residual=block_program,
            rows=rows,
            mask=mask,
            loss=problem.loss,
            bounds=problem.bounds,
            jacobian=jacobian,
            size=size,
            block=block,
            form=form,
            mode=mode,
            noise=_noise(x, how, program, mode),
        )

    def blank(self, x: Vector) -> Any:
        """The structure of this objective's linearisations, for a state's beginning."""
        return self.form.blank(self, x.size, x.dtype)

    @property
    def num_rows(self) -> Array:
        """The number of residuals that count."""
        if self.mask is None:
            return jnp.asarray(self.size, jnp.int32)
        return jnp.sum(self.mask, dtype=jnp.int32)

    def repaired_columns(
        self, x: Vector, rows: Any, mask: Array | None, length: Vector
    ) -> tuple[Float[Array, " b"], Columns]:
        """Residuals and columns of J of some rows, differences where J is not finite.

        `length` is how far each parameter moves to change r by |r| (`repair`).
        """

        def fn(x):
            return self._residuals(x, rows, mask)

        r, jt = self._rows_at(x, rows, mask)
        better = repaired(fn, x, r, jnp.stack([*jt]), length, self.bounds)
        return r, tuple(better) if isinstance(jt, tuple) else better

    def residuals(self, x: Vector) -> Float[Array, " m"]:
        """The residuals at x, 0 where masked."""
        return self._residuals(x, self.rows, self.mask)

    def cost(self, x: Vector) -> Scalar:
        """The cost at x. One fused pass: cutting it into blocks would slow it down."""
        return self.loss.cost(self._residuals(x, self.rows, self.mask))

    def influence_sums(self, x: Vector) -> tuple[Scalar, Scalar]:
        """sum(psi^2) and sum(psi') at x, as of `Loss.influence_sums`."""
        return self.loss.influence_sums(self.residuals(x), self.mask)

    def rows_at(self, x: Vector) -> tuple[Float[Array, " m"], Float[Array, "m n"]]:
        """The residuals at x, and the Jacobian with the row scale of the loss.

        J'J is then the Gauss-Newton approximation of the Hessian of the cost.
        """
        r, jt = self._rows_at(x, self.rows, self.mask)
        cost, _, row_scale = self.loss.robustify(r)
        scale = 1 if row_scale is None else row_scale
        jt = jt if isinstance(jt, jax.Array) else jnp.stack(jt)
        if self.repairs:
            known = jnp.where(jnp.isfinite(jt), jt * scale, 0)
            length = lengths(jnp.sum(cost), jnp.sqrt(jnp.sum(known**2, axis=1)))
            jt = _repaired_rows(jt, x, r, length, self)
        return r, (jt * scale).T

    @property
    def has_products(self) -> bool:
        """Whether the rows are first seen as `products`, a triangle's where they do."""
        program: Any = self.residual
        return (
            self.form is TRIANGLE
            and self.block == self.size
            and self.mode == "forward"
            and self.noise == 0
            and not calls_host(program.jaxpr)
        )

    def products(self, x: Vector) -> Float[Array, "n1 n1"]:
        """[J r]'[J r] of all rows, with twice the cost in the corner."""
        return products(self, x)

    def linearise(self, x: Vector) -> Linearisation:
        """The linearisation at x in this objective's form."""
        return self.form.linearise(self, x)

    @property
    def repairs(self) -> bool:
        """Whether derivatives that are not finite are replaced by differences."""
        return self.jacobian is None and self.mode != "differences"

    def weighted_rows(
        self, x: Vector, rows: Any, mask: Array | None, length: Vector | None = None
    ) -> tuple[Float[Array, " b"], Float[Array, " b"], Columns]:
        """Cost, residual and columns of J of some rows, as the loss weighs them.

        Given the `length` of each parameter, what of J is not finite is replaced by
        differences (`repair`).
        """
        if length is None:
            r, jt = self._rows_at(x, rows, mask)
        else:
            r, jt = self.repaired_columns(x, rows, mask, length)
        cost, r, row_scale = self.loss.robustify(r)
        if row_scale is not None:
            jt = jax.tree.map(lambda columns: columns * row_scale, jt)
        return cost, r, jt

    def _residuals(self, x: Vector, rows: Any, mask: Array | None) -> Array:
        """The residuals of some rows, 0 where masked."""
        program = self.residual if rows is self.rows else self.block_residual
        r = program(x, rows)
        return r if mask is None else jnp.where(mask, r, 0)

    def _rows_at(
        self, x: Vector, rows: Any, mask: Array | None
    ) -> tuple[Float[Array, " b"], Columns]:
        """r and the columns of J of some rows, in sequence or as the rows of J'."""

        def residuals(x):
            return self._residuals(x, rows, mask)

        if self.jacobian is not None:
            jt = self.jacobian(x, rows).T
            return residuals(x), jt if mask is None else jnp.where(mask, jt, 0)
        return columns(residuals, x, self.mode, self.bounds)


@eqx.filter_custom_jvp
def _repaired_rows(
    jt: Array, x: Vector, r: Array, length: Vector, objective: Objective
) -> Array:
    """The rows of J' with differences where they are not finite, all rows at once."""

    def new(one):
        x_here = x * one
        return repaired(objective.residuals, x_here, r, jt, length, objective.bounds)

    wanted = jnp.any(~jnp.isfinite(jt) & jnp.isfinite(r))
    return only_where(wanted, new, jt)


@_repaired_rows.def_jvp
def _(primals, tangents):
    return _repaired_rows(*primals), tangents[0]


def _noise(x: Vector, how: Evaluation, program: Any, mode: Mode) -> float:
    """The relative error of columns of J that are differences; 0 where they are not.

    Those of a function on the host are taken for "2-point" ones.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    jacobian = None if how.jacobian is None else how.jacobian.wrapped
    if isinstance(jacobian, DifferenceJacobian):
        eps, scheme = max(eps, jacobian.eps), jacobian.scheme
    elif jacobian is None and calls_host(program.jaxpr):
        scheme = "2-point"
    else:
        scheme = "3-point" if mode == "differences" else "cs"
    power = {"2-point": 1 / 2, "3-point": 2 / 3}.get(scheme)
    return 0.0 if power is None else 2 * eps**power
