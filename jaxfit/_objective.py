"""A problem as the loop sees it: `cost(x)` and `linearise(x)` of a vector x.

The only place that sees data. The user's residual is traced once, here; cost,
linearisation and derivatives all evaluate that one program. Rows whose mask is False
become zeros in the residual and in every derivative.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ._linearise import Gram, Linearisation, MatrixFree, Slope, Triangle
from ._loss import Loss
from ._problem import Curve, Problem
from ._trf import TRF
from ._types import Scalar, Vector


class Objective(eqx.Module):
    """1/2 C^2 sum(rho(r(x)^2 / C^2)) of m residuals and n parameters.

    The fields are the traced residual with everything it closes over, the loss, and how
    to differentiate and summarise; arrays among them may be differentiated and batched.
    """

    residual: Callable[[Vector], Array]
    mask: Array | None
    loss: Loss
    jacobian: Callable[[Vector], Array] | None
    size: int = eqx.field(static=True)
    form: Literal["qr", "gram", "matrix_free"] = eqx.field(static=True)
    mode: Literal["forward", "reverse"] = eqx.field(static=True)
    cg_steps: int = eqx.field(static=True)

    @staticmethod
    def of(problem: Problem, x: Vector, solver: TRF) -> "Objective":
        """Trace the problem's residual at parameters `x` (only shapes matter).

        **Raises:** `ValueError` where the residual is empty or does not match the mask,
        `TypeError` where it is not real.
        """
        _, unravel = ravel_pytree(problem.params)

        def residual(x):
            r = problem.residual(unravel(x), problem.args)
            for leaf in jax.tree.leaves(r):
                if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                    raise TypeError(
                        f"the residual must be real, got {jnp.result_type(leaf)}: "
                        "return real and imaginary parts as two arrays."
                    )
            return ravel_pytree(r)[0].astype(x.dtype)

        program = eqx.filter_closure_convert(residual, x)
        size = program.out_struct.size
        if size == 0:
            raise ValueError("the residual is empty (m = 0): there are no data to fit.")
        mask = None if problem.mask is None else ravel_pytree(problem.mask)[0]
        if mask is not None and mask.size != size:
            raise ValueError(f"`mask` has {mask.size} entries for {size} residuals.")
        jacobian = solver.jacobian
        if jacobian is not None:
            jacobian = _flat_jacobian(problem, unravel, jacobian, x, size)
        form = "qr" if solver.linear_solver == "auto" else solver.linear_solver
        return Objective(
            residual=program,
            mask=mask,
            loss=problem.loss,
            jacobian=jacobian,
            size=size,
            form=form,
            mode=solver.mode,
            cg_steps=solver.cg_steps,
        )

    def blank(self, x: Vector):
        """The structure of this objective's linearisations, for `TRF.init`."""
        form = {"qr": Triangle, "gram": Gram, "matrix_free": Slope}[self.form]
        return form.blank(x.size, self.size, x.dtype)

    @property
    def num_rows(self) -> Array:
        """The number of residuals that count."""
        if self.mask is None:
            return jnp.asarray(self.size)
        return jnp.sum(self.mask)

    def residuals(self, x: Vector) -> Float[Array, " m"]:
        """r(x), 0 in masked rows."""
        r = self.residual(x)
        return r if self.mask is None else jnp.where(self.mask, r, 0)

    def cost(self, x: Vector) -> Scalar:
        return self.loss.cost(self.residuals(x))

    def linearise(self, x: Vector) -> Linearisation:
        """The linearisation at x in this objective's form."""
        if self.form == "matrix_free":
            return self._matrix_free(x)
        r, jt = self._rows(x)
        cost, r, row_scale = self.loss.robustify(r)
        if row_scale is not None:
            jt = jt * row_scale
        form = {"qr": Triangle, "gram": Gram}[self.form]
        return form.of_rows(cost, r, jt)

    def _rows(self, x: Vector) -> tuple[Float[Array, " m"], Float[Array, "n m"]]:
        """r and J', the latter a row for each parameter: contiguous in m."""
        if self.jacobian is not None:
            jt = self.jacobian(x).T
            jt = jt if self.mask is None else jnp.where(self.mask, jt, 0)
            return self.residuals(x), jt
        if self.mode == "forward":
            r, tangents = jax.linearize(lambda x: self.residuals(x), x)
            return r, jax.vmap(tangents)(jnp.eye(x.size, dtype=x.dtype))
        r, pullback = jax.vjp(lambda x: self.residuals(x), x)
        (j,) = jax.vmap(pullback)(jnp.eye(r.size, dtype=r.dtype))
        return r, j.T

    def _matrix_free(self, x: Vector) -> MatrixFree:
        r, tangents = jax.linearize(lambda x: self.residuals(x), x)
        pullback = jax.linear_transpose(tangents, x)
        cost, r, row_scale = self.loss.robustify(r)
        weight = 1 if row_scale is None else row_scale

        def product(s):
            return pullback(tangents(s) * weight**2)[0]

        # |J_i|^2 is the mean of (J'e)_i^2 over random signs e: an estimate from 8 of
        # them is right to about a third, and a scale need be no better.
        signs = jax.random.rademacher(jax.random.key(0), (8, r.size), r.dtype)
        probes = jax.vmap(lambda e: pullback(e * weight)[0])(signs)
        norms = jnp.sqrt(jnp.mean(probes**2, axis=0))
        grad = pullback(r * weight)[0]
        return MatrixFree(cost, grad, norms, product, self.cg_steps)


def _flat_jacobian(problem: Problem, unravel, jacobian, x, size):
    """The user's Jacobian as a traced function from x to an (m, n) matrix."""

    def matrix(x):
        params = unravel(x)
        if isinstance(problem.residual, Curve):
            rows = problem.residual.jacobian(jacobian, params, problem.args)
        else:
            rows = jacobian(params, problem.args)
        leaves = jax.tree.leaves(params)
        blocks = jax.tree.leaves(rows)
        if len(blocks) % len(leaves):
            raise ValueError(
                f"`jacobian` returned {len(blocks)} arrays for {len(leaves)} leaves of "
                "`params`: it must be structured like jax.jacobian(residual)."
            )
        columns = [
            jnp.concatenate([b.reshape(-1, p.size) for b, p in zip(
                blocks[i : i + len(leaves)], leaves, strict=True)], axis=1)
            for i in range(0, len(blocks), len(leaves))
        ]
        j = jnp.concatenate(columns).astype(x.dtype)
        if j.shape != (size, x.size):
            raise ValueError(
                f"`jacobian` gives a matrix of shape {j.shape}, not {(size, x.size)}."
            )
        return j

    return eqx.filter_closure_convert(matrix, x)
