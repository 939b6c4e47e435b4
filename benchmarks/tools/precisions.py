"""The precisions that a fit can be made in, and how each is asked for.

A fit computes in the precision of its parameters. What else there is are ways of
handing them over: numbers stored in another precision, a model that computes in one of
its own, a fit that begins where another ended.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxfit


@dataclasses.dataclass(frozen=True)
class Precision:
    """Of data, of parameters and sums, and of the model's own arithmetic."""

    name: str
    data: str
    fit: str
    model: str | None = None  # None: whatever the two others make it
    begins: "Precision | None" = None  # the fit whose end is the start of this one

    def problem(self, model: Any, x: Any, y: Any, start: Any) -> jaxfit.Problem:
        """The curve fit in this precision; float64 has to be enabled."""
        cast = jax.tree.map(lambda a: jnp.asarray(a, self.data), (x, y))
        if self.model is not None:
            model = _Narrow(model, self.model)
        return jaxfit.curve_problem(model, *cast, jnp.asarray(start, self.fit))

    @property
    def first(self) -> "Precision":
        """What is fitted first."""
        return self if self.begins is None else self.begins


@dataclasses.dataclass(frozen=True)
class _Narrow:
    """A model that computes in a precision of its own, as a user would write it."""

    model: Any
    dtype: str

    def __call__(self, x, params):
        x = jax.tree.map(lambda a: a.astype(self.dtype), x)
        return self.model(x, params.astype(self.dtype))


DOUBLE = Precision("float64", "float64", "float64")
SINGLE = Precision("float32", "float32", "float32")
POLISHED = dataclasses.replace(DOUBLE, name="float32, then float64", begins=SINGLE)
STORED = Precision("float32 data, float64 fit", "float32", "float64")
SUMMED = Precision("float32 model, float64 sums", "float32", "float64", "float32")
PRECISIONS = (DOUBLE, SINGLE, POLISHED, STORED, SUMMED)


def digits(value: Any, certified: Any) -> np.ndarray:
    """Correct digits of each number, 0 to 11; 0 for NaN."""
    with np.errstate(all="ignore"):
        found = -np.log10(np.abs(np.asarray(value) - certified) / np.abs(certified))
    return (
        np.clip(np.nan_to_num(found, nan=0.0, posinf=11.0), 0.0, 11.0) + 0.0
    )  # no -0.0
