"""A problem as the loop sees it: `cost(x)` and `linearise(x)` of a vector x.

The only place that sees data. The user's residual is traced here, once; cost,
linearisation and derivatives all evaluate that one program. Rows whose mask is False
become zeros in the residual and in every derivative.

Statistics of rows add. Where the residual is proven row-wise (`_functions.rowwise`) and
the data do not fit the cache, they are visited block by block and nothing as long as
the data is ever made: then the residual is traced a second time, for a block.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._basics.trees import on_some
from .._basics.types import Scalar, Vector
from .._basics.varying import alike
from .._functions.constants import forget_other_precision
from .._functions.differences import DifferenceJacobian
from .._functions.expected import expected
from .._functions.rowwise import rows_mixed_by, same_but_for_length
from .._trf.algebra import UNROLL
from .._trf.bounds import Bounds
from .._trf.linearisation import Columns, Gram, Linearisation, Triangle, is_finite
from .._trf.matrix_free import MatrixFree, Slope
from .._trf.trf import TRF
from .curve import Curve
from .derivatives import Mode, calls_host, columns, mode_of
from .loss import Loss
from .per_row import are_rows
from .problem import Problem
from .repair import lengths, repaired


# A block of this many numbers stays in the second-level cache of a CPU core. A pass
# over 1e6 points took, in ms at 2^15, 2^16, 2^17 and 2^18 (medians):
#     3 parameters  4.6   4.7   5.0   5.3
#     5             10.8  9.9   9.0   8.6
#     8             24.7  24.1  21.2  19.2
_BLOCK_NUMBERS = 2**17
# Data of fewer numbers than this are not cut: they fit the cache as they are.
_LARGE = 2**18


Form = Literal["qr", "gram", "matrix_free"]


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
    cg_steps: int = eqx.field(static=True)

    @staticmethod
    def of(
        problem: Problem,
        x: Vector,
        solver: TRF,
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
        program, jacobian = _traced(problem, x, solver, rows)
        size = program.out_struct.size
        mask = None if problem.mask is None else ravel_pytree(problem.mask)[0]
        if mask is not None and mask.size != size:
            raise ValueError(f"`mask` has {mask.size} entries for {size} residuals.")
        if form is None:
            form = _form(solver, size, x.size)
        if block is None:
            programs = program, jacobian
            block = _block(problem, x, solver, form, programs)
        mode = _mode(problem, x, solver, rows, program, form)
        block = min(block, size)
        block_program = program
        if block < size:
            part = _rows(rows, size, 0, block)
            block_program, jacobian = _traced(problem, x, solver, part)
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
            noise=_noise(x, solver, program, mode),
            cg_steps=solver.cg_steps,
        )

    def blank(self, x: Vector):
        """The structure of this objective's linearisations, for `TRF.init`."""
        form = {"qr": Triangle, "gram": Gram, "matrix_free": Slope}[self.form]
        return self._with_noise(form.blank(x.size, self.size, x.dtype))

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

    def rows_at(self, x: Vector) -> tuple[Float[Array, " m"], Float[Array, "m n"]]:
        """The residuals at x, and the Jacobian with the row scale of the loss.

        J'J is then the Gauss-Newton approximation of the Hessian of the cost.
        """
        r, jt = self._rows_at(x, self.rows, self.mask)
        cost, _, row_scale = self.loss.robustify(r)
        scale = 1 if row_scale is None else row_scale
        jt = jt if isinstance(jt, jax.Array) else jnp.stack(jt)
        if self._repairs:
            known = jnp.where(jnp.isfinite(jt), jt * scale, 0)
            length = lengths(jnp.sum(cost), jnp.sqrt(jnp.sum(known**2, axis=1)))
            jt = _repaired_rows(jt, x, r, length, self)
        return r, (jt * scale).T

    def linearise(self, x: Vector) -> Linearisation:
        """The linearisation at x in this objective's form."""
        if self.form == "matrix_free":
            return self._matrix_free(x)
        lin = self._with_noise(self._summed(x, None))
        if self._repairs:
            return _repaired_sums(lin, x, self)
        if self.jacobian is None and not calls_host(self.residual):
            ones = jnp.ones_like(lin.differenced)
            return eqx.tree_at(lambda lin: lin.differenced, lin, ones)
        return lin

    def _with_noise(self, lin: Any) -> Any:
        """A linearisation that knows how exact its derivatives are."""
        if not (self.noise and isinstance(lin, Triangle)):
            return lin
        return dataclasses.replace(lin, noise=self.noise)

    @property
    def _repairs(self) -> bool:
        """Whether derivatives that are not finite are replaced by differences."""
        return self.jacobian is None and self.mode != "differences"

    def _summed(self, x: Vector, length: Vector | None) -> Linearisation:
        """The sums over all rows; they are repaired where `length` is given."""
        form = {"qr": Triangle, "gram": Gram}[self.form]

        def part(rows, mask):
            return form.of_rows(*self.weighted_rows(x, rows, mask, length))

        if self.block == self.size:
            return part(self.rows, self.mask).total()

        # If blocks do not cut the rows evenly the last one ends with the data and
        # overlaps the one before: what it has seen already is masked, not padded.
        @jax.checkpoint
        def add(sums, i):
            due = start = i * self.block
            mask = None
            if self.size % self.block:
                start = jnp.minimum(due, self.size - self.block)
                mask = start + jnp.arange(self.block) >= due
            if self.mask is not None:
                own = jax.lax.dynamic_slice_in_dim(self.mask, start, self.block)
                mask = own if mask is None else mask & own
            rows = _rows(self.rows, self.size, start, self.block)
            return sums + part(rows, mask), None

        count = -(-self.size // self.block)
        zero = alike(form.zero(x.size, self.size, self.block, x.dtype), x)
        return jax.lax.scan(add, zero, jnp.arange(count))[0].total()

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

    def _matrix_free(self, x: Vector) -> MatrixFree:
        def residuals(x):
            return self._residuals(x, self.rows, self.mask)

        r, tangents = jax.linearize(residuals, x)
        pullback = jax.linear_transpose(tangents, x)
        row_cost, r, row_scale = self.loss.robustify(r)
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
def _repaired_sums(lin: Any, x: Vector, objective: Objective) -> Any:
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
        lin = objective._with_noise(objective._summed(x, length))
        lin = eqx.tree_at(lambda lin: lin.differenced, lin, old.differenced)
        length = lengths(lin.cost, lin.column_norms)
        return left - 1, jnp.where(left > 1, x, lin.grad), length, lin

    return jax.lax.while_loop(more, turn, (turns, x, jnp.zeros_like(x), lin))[-1]


@_repaired_sums.def_jvp
def _(primals, tangents):
    return _repaired_sums(*primals), tangents[0]


@eqx.filter_custom_jvp
def _repaired_rows(
    jt: Array, x: Vector, r: Array, length: Vector, objective: Objective
) -> Array:
    """The same of the rows of J', all of them at once."""

    def turn(carry):
        _, x, jt = carry

        def fn(x):
            return objective._residuals(x, objective.rows, objective.mask)

        new = repaired(fn, x, r, jt, length, objective.bounds)
        return jnp.zeros_like(carry[0]), jt[:, 0], new

    wanted = jnp.any(~jnp.isfinite(jt) & jnp.isfinite(r))
    return jax.lax.while_loop(lambda carry: carry[0], turn, (wanted, x, jt))[-1]


@_repaired_rows.def_jvp
def _(primals, tangents):
    return _repaired_rows(*primals), tangents[0]


def why_not_rowwise(problem: Problem, x: Vector, solver: TRF) -> str | None:
    """None if a problem's rows are proven to be treated one by one, else the reason.

    Those of the residual and of a Jacobian that the user wrote. Shown by two traces:
    in one, no row meets another; in one of fewer rows the program is the same, so that
    their number is nowhere among the values.
    """
    return _why_not(problem, x, solver, _traced(problem, x, solver, problem.args))


def _why_not(problem: Problem, x: Vector, solver: TRF, programs: Any) -> str | None:
    """The same, where the residual and the Jacobian have been traced already."""
    rows, size = problem.args, programs[0].out_struct.size
    of_rows = [False, *jax.tree.leaves(are_rows(rows, size))]
    for program in programs:
        reason = program and rows_mixed_by(program.jaxpr, of_rows)
        if reason is not None:
            return reason
    if size > 1:
        try:
            fewer = _traced(problem, x, solver, _rows(rows, size, 0, size - 1))
        except Exception as err:  # the model's own word: it takes no other length
            return f"for fewer rows it raises {type(err).__name__}: {err}"
        for program, other in zip(programs, fewer, strict=True):
            if program and not same_but_for_length(
                program.jaxpr, other.jaxpr, (size, size - 1)
            ):
                return (
                    "for fewer rows it is another program, which may use their number"
                )
    return None


def _traced(problem: Problem, x: Vector, solver: TRF, rows: Any) -> tuple[Any, Any]:
    """The residual of some rows as a traced function, and the user's Jacobian, or None.

    **Raises:** `ValueError` where the residual is empty, `TypeError` where not real.
    """
    _, unravel = ravel_pytree(problem.params)
    forget_other_precision(problem.residual)

    def residual(x, rows):
        if isinstance(problem.residual, Curve):
            r = problem.residual(unravel(x), rows)
        else:
            params = unravel(x)
            with expected("residual", "residual(params, args)", params, rows):
                r = problem.residual(params, rows)
        for leaf in jax.tree.leaves(r):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float):
                raise TypeError(
                    "`residual` must return arrays of residuals and nothing else, and "
                    f"returned {leaf!r} among them: what else it computes can be had "
                    "by calling it at the solution."
                )
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"the residual must be real, got {jnp.result_type(leaf)}: "
                    "return real and imaginary parts as two arrays."
                )
        return ravel_pytree(r)[0].astype(x.dtype)

    program: Any = eqx.filter_closure_convert(residual, x, rows)
    size = program.out_struct.size
    if size == 0:
        raise ValueError("the residual is empty (m = 0): there are no data to fit.")
    if solver.jacobian is None:
        return program, None
    return program, _flat_jacobian(problem, unravel, solver.jacobian, x, rows, size)


def _mode(problem: Problem, x: Vector, solver: TRF, rows, program, form: Form) -> Mode:
    """The mode of differentiation; what a user's Jacobian makes of it is nothing."""
    if solver.jacobian is not None or form == "matrix_free":
        return solver.mode
    return mode_of(program, x, rows, program.out_struct.size, solver.mode)


def _noise(x: Vector, solver: TRF, program: Any, mode: Mode) -> float:
    """The relative error of columns of J that are differences; 0 where they are not.

    Those of a function on the host are taken for "2-point" ones.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    jacobian = None if solver.jacobian is None else solver.jacobian.wrapped
    if isinstance(jacobian, DifferenceJacobian):
        eps, scheme = max(eps, jacobian.eps), jacobian.scheme
    elif jacobian is None and calls_host(program):
        scheme = "2-point"
    else:
        scheme = "3-point" if mode == "differences" else "cs"
    power = {"2-point": 1 / 2, "3-point": 2 / 3}.get(scheme)
    return 0.0 if power is None else 2 * eps**power


def _rows(rows, size: int, start, count: int):
    """Rows `start` to `start + count` of every leaf that holds rows."""
    if count == size:
        return rows

    def cut(leaf):
        return jax.lax.dynamic_slice_in_dim(leaf, start, count)

    return on_some(cut, rows, are_rows(rows, size))


def _form(solver: TRF, size: int, n: int) -> Form:
    """The form of the linearisations of so many rows."""
    if solver.linear_solver != "auto":
        return solver.linear_solver
    return "gram" if size * (n + 2) > _LARGE else "qr"


def _even(size: int, fitting: int) -> int:
    """A block near `fitting` that cuts the rows evenly, if there is one.

    Then no row has to be masked: 6.2 ms a pass over 1e6 points where it took 8.5.
    """
    near = range(2 * fitting, fitting // 2, -1)
    return next((rows for rows in near if size % rows == 0), fitting)


def _block(problem: Problem, x: Vector, solver: TRF, form: Form, programs: Any) -> int:
    """The number of rows to visit at a time."""
    n, size = x.size, programs[0].out_struct.size
    large = size * (n + 2) > _LARGE
    wanted = solver.chunk_size
    if form == "matrix_free" or wanted is None or (wanted == "auto" and not large):
        if form == "matrix_free" and isinstance(wanted, int):
            raise ValueError("`chunk_size` needs linear_solver 'qr' or 'gram'.")
        return size
    if wanted == "auto" and jax.default_backend() != "cpu":
        return size
    reason = _why_not(problem, x, solver, programs)
    if reason is None:
        sums = (n + 1) * (n + 2) // 2 if n <= UNROLL else n + 2
        fitting = 2 ** max(6, (_BLOCK_NUMBERS // sums).bit_length() - 1)
        return min(size, _even(size, fitting) if wanted == "auto" else wanted)
    if wanted == "auto":
        return size
    raise ValueError(
        f"`chunk_size` is {wanted}, but the residual is not row-wise: {reason}. Write "
        "it so that each residual depends on its own row of the data alone, all data "
        "passed as `args` (or `x` and `y`), or leave chunk_size at 'auto'."
    )


def _flat_jacobian(problem: Problem, unravel, jacobian, x, rows, size):
    """The user's Jacobian as a traced function from x to an (m, n) matrix."""

    def matrix(x, rows):
        params = unravel(x)
        if isinstance(problem.residual, Curve):
            derivative = problem.residual.jacobian(jacobian, params, rows)
        else:
            derivative = jacobian(params, rows)
        leaves = jax.tree.leaves(params)
        blocks = jax.tree.leaves(derivative)
        if len(blocks) % len(leaves):
            raise ValueError(
                f"`jacobian` returned {len(blocks)} arrays for {len(leaves)} leaves of "
                "`params`: it must be structured like jax.jacobian(residual)."
            )
        for block, leaf in zip(
            blocks, leaves * (len(blocks) // len(leaves)), strict=True
        ):
            rest = block.ndim - leaf.ndim
            if rest < 0 or block.shape[rest:] != leaf.shape:
                raise ValueError(
                    f"`jacobian` must give a matrix of shape {(size, x.size)} in all, "
                    f"got an array of shape {block.shape} for parameters of shape "
                    f"{leaf.shape}: theirs come last."
                )
        columns = [
            jnp.concatenate(
                [
                    b.reshape(-1, p.size)
                    for b, p in zip(blocks[i : i + len(leaves)], leaves, strict=True)
                ],
                axis=1,
            )
            for i in range(0, len(blocks), len(leaves))
        ]
        j = jnp.concatenate(columns).astype(x.dtype)
        if j.shape != (size, x.size):
            raise ValueError(
                f"`jacobian` gives a matrix of shape {j.shape}, not {(size, x.size)}."
            )
        return j

    return eqx.filter_closure_convert(matrix, x, rows)
