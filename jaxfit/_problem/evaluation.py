"""How the residual of a problem is evaluated: derivatives, form, blocks and devices."""

from typing import Literal

import equinox as eqx
from jax.sharding import Mesh

from .._functions.callables import Function
from .forms import GRAM, TRIANGLE, Form, MatrixFreeForm


LinearSolver = Literal["auto", "qr", "gram", "matrix_free"]
# Data of fewer numbers than this are not cut in blocks: they fit the cache as they are.
_LARGE = 2**18


class Evaluation(eqx.Module):
    """What a problem's evaluation reads of a solver; see [`jaxfit.TRF`][] for each.

    Nothing here says how to step.
    """

    jacobian: Function | None = None  # None stands for automatic differentiation
    mode: Literal["forward", "reverse"] = eqx.field(static=True, default="forward")
    linear_solver: LinearSolver = eqx.field(static=True, default="auto")
    chunk_size: int | Literal["auto"] | None = eqx.field(static=True, default="auto")
    cg_steps: int = eqx.field(static=True, default=500)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def form(self, size: int, n: int) -> Form:
        """The form of linearisations of so many residuals and parameters."""
        name = self.linear_solver
        if name == "auto":
            name = "gram" if self.is_large(size, n) else "qr"
        forms: dict[str, Form] = {
            "qr": TRIANGLE,
            "gram": GRAM,
            "matrix_free": MatrixFreeForm(self.cg_steps),
        }
        return forms[name]

    @staticmethod
    def is_large(size: int, n: int) -> bool:
        """Whether the residuals and their Jacobian are too many to fit the cache."""
        return size * (n + 2) > _LARGE
