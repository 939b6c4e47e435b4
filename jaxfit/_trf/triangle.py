"""The triangular form of what the data say: R with R'R = [J r]'[J r].

By Householder's reflections of the rows, which squares no condition number, or by
products of the columns where those lose few digits.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basics.types import Flag, Matrix, Scalar, Vector
from .algebra import (
    UNROLL,
    cholesky,
    diagonal,
    every,
    matvec,
    solve_lower,
    total,
    triangle,
    vecmat,
)
from .linearisation import Columns, hat
from .subproblem import Factored, Spectral


class Triangle(eqx.Module):
    """The triangle of [J r]: `root` is R of J = Q R and `z` is Q'r.

    `differenced` is positive where some of the derivatives are differences. A singular
    value counts as zero that is `cut` of the largest, or what errors of the columns of
    `noise` times their lengths make of its direction.
    """

    cost: Scalar
    root: Matrix
    z: Vector
    differenced: Scalar
    cut: float = eqx.field(static=True)
    noise: float = eqx.field(static=True, default=0.0)

    @staticmethod
    def blank(n: int, m: int, dtype) -> "Triangle":
        """NaN everywhere: nothing has been seen yet."""
        nan = jnp.full((n, n), jnp.nan, dtype)
        return Triangle(nan[0, 0], nan, nan[0], nan[0, 0], _cut(n, m, dtype))

    @staticmethod
    def zero(n: int, m: int, block: int, dtype) -> "Triangle":
        """The linearisation of no rows at all, out of m to come."""
        none = jnp.zeros((n, n), dtype)
        return Triangle(none[0, 0], none, none[0], none[0, 0], _cut(n, m, dtype))

    @staticmethod
    def of_rows(
        cost: Float[Array, "b ..."], r: Float[Array, "b ..."], columns: Columns
    ) -> "Triangle":
        """Of b rows, with the cost of each."""
        cut = _cut(len(columns), r.size, r.dtype)
        cost = jnp.sum(cost)
        root = triangle(jnp.stack([*columns, r]))
        return Triangle._of_root(cost, root, jnp.zeros_like(cost), cut)

    @staticmethod
    def of_products(products: Matrix, like: "Triangle") -> tuple["Triangle", Flag]:
        """From [J r]'[J r], and whether that is as good as reflections of the rows.

        Products square the condition number of J: they are good where the pivots tell
        that no more than a few digits are lost, and no square is near underflow. Twice
        the cost stands in the corner.
        """
        n = len(products) - 1
        lower, definite = cholesky(products[:n, :n])
        z = solve_lower(lower, products[n, :n])
        info = jnp.finfo(z.dtype)
        seen = every(diagonal(products) > float(info.tiny) / float(info.eps))
        sound = definite & pivots_sound(lower.T) & seen & jnp.isfinite(total(z))
        cost = products[n, n] / 2
        zero = jnp.zeros_like(cost)
        parts = cost, lower.T, z, zero
        return Triangle(*parts, like.cut, like.noise), sound

    def as_products(self) -> Matrix:
        """The same numbers laid out as `products`: R and z instead of J'J and J'r."""
        right = jnp.concatenate([self.z, 2 * self.cost[None]])
        last = jnp.zeros_like(self.z).at[0].set(self.differenced)
        below = jnp.concatenate([self.root, last[None]])
        return jnp.concatenate([below, right[:, None]], axis=1)

    @staticmethod
    def as_laid(laid: Matrix, like: "Triangle") -> "Triangle":
        """What `as_products` laid out."""
        n = len(laid) - 1
        parts = laid[n, n] / 2, laid[:n, :n], laid[:n, n], laid[n, 0]
        return Triangle(*parts, like.cut, like.noise)

    def total(self) -> "Triangle":
        return self

    def with_noise(self, noise: float) -> "Triangle":
        """The same, told how exact its columns are."""
        return dataclasses.replace(self, noise=noise) if noise else self

    @classmethod
    def _of_root(cls, cost, root, differenced, cut) -> "Triangle":
        return cls(cost, root[:-1, :-1], root[:-1, -1], differenced, cut)

    def __add__(self, other: "Triangle") -> "Triangle":
        def rows(lin):
            # Q'r has one more component, of norm^2 2 cost - |z|^2: it affects neither
            # the gradient nor the step, and the cost is carried apart.
            return jnp.concatenate([lin.root.T, lin.z[None]])

        columns = jnp.concatenate([rows(self), rows(other)], axis=1)
        cut = max(self.cut, other.cut)
        differenced = self.differenced + other.differenced
        whole = self._of_root(
            self.cost + other.cost, triangle(columns), differenced, cut
        )
        return whole.with_noise(max(self.noise, other.noise))

    @staticmethod
    def joined(parts: "Triangle") -> "Triangle":
        """The linearisation of all rows, from those of parts along a first axis."""
        rows = jnp.concatenate([parts.root, parts.z[..., None]], axis=-1)
        columns = rows.reshape(-1, rows.shape[-1]).T
        cost, differenced = jnp.sum(parts.cost), jnp.sum(parts.differenced)
        whole = Triangle._of_root(cost, triangle(columns), differenced, parts.cut)
        return dataclasses.replace(whole, noise=parts.noise)

    @property
    def grad(self) -> Vector:
        return vecmat(self.z, self.root)

    @property
    def gram(self) -> Matrix:
        return jnp.sum(self.root[:, :, None] * self.root[:, None], axis=0)

    def summary(self) -> "Triangle":
        return self

    def without(self, columns: Bool[Array, "n ..."]) -> "Triangle":
        return dataclasses.replace(self, root=jnp.where(columns, 0, self.root))

    @property
    def column_norms(self) -> Vector:
        return jnp.sqrt(jnp.sum(self.root**2, axis=0))

    def product(self, s: Vector) -> Vector:
        return vecmat(matvec(self.root, s), self.root)

    def subproblem(self, d: Vector, c: Vector | None) -> Factored | Spectral:
        if len(d) > UNROLL:
            return self.spectral(d, c)
        b = hat(self.gram, d, c)
        sound = pivots_sound(self.root) if not self.noise else False
        return Factored.of_matrix(
            b, d * self.grad, sound, lambda one: self.spectral(d * one, c)
        )

    def spectral(self, d: Vector, c: Vector | None) -> Spectral:
        root = scaled = self.root * d
        if c is not None:
            root = jnp.concatenate([root, jnp.diag(jnp.sqrt(c))])
        u, s, vt = jnp.linalg.svd(root, full_matrices=False)
        least = self.cut * s[0]
        if self.noise:
            sizes = jnp.sum(scaled**2, axis=0)
            errors = self.noise * jnp.sqrt(jnp.sum(vt**2 * sizes, axis=1))
            least = jnp.maximum(least, errors)
        s = jnp.where(s > least, s, 0)
        return Spectral(vt, s * s, s * vecmat(self.z, u[: self.z.size]))


def _cut(n: int, m: int, dtype) -> float:
    return max(n, m) * float(jnp.finfo(dtype).eps)


def pivots_sound(root: Matrix) -> Flag:
    """Whether sums of products lose no more than a few digits of a triangle R.

    The squares of R_jj over those of the columns are the pivots of J'J with unit
    diagonal.
    """
    least = float(jnp.finfo(root.dtype).eps) ** (1 / 6)
    return every(diagonal(root) ** 2 > least * jnp.sum(root * root, axis=0))
