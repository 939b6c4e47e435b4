"""Data sets with certified answers: the NIST StRD for nonlinear regression.

National Institute of Standards and Technology, Statistical Reference Datasets: 27
problems of lower, average and higher difficulty, each with two starts, and parameters,
standard deviations and residual sum of squares certified to 11 digits.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._problem.problem import Problem, curve_problem


@dataclasses.dataclass(frozen=True)
class NistDataset:
    """One NIST data set; arrays are NumPy float64.

    `expression` is the model in the parameters b1, b2, ... and the predictors in `x`,
    a dictionary; `y` is the response, already transformed as `response` tells.
    """

    name: str
    difficulty: str
    expression: str
    response: str
    x: dict[str, np.ndarray]
    y: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    certified: np.ndarray
    std_dev: np.ndarray
    residual_sum_of_squares: float
    residual_std_dev: float
    degrees_of_freedom: int

    @property
    def model(self) -> "NistModel":
        """The model as a function `model(x, params)` of this data set's `x`."""
        return NistModel(self.expression)

    def problem(self, start: int = 0, **options: Any) -> Problem:
        """The problem from certified start 0 or 1; options as in `curve_problem`."""
        return curve_problem(self.model, self.x, self.y, self.starts[start], **options)


@dataclasses.dataclass(frozen=True)
class NistModel:
    """A traceable model from an arithmetic expression."""

    expression: str

    def __call__(self, x, params):
        names = {f"b{i}": b for i, b in enumerate(params, start=1)}
        return eval(_compiled(self.expression), _FUNCTIONS, {**names, **x})


_FUNCTIONS = {
    "__builtins__": {},
    "pi": math.pi,
    **{name: getattr(jnp, name) for name in ("exp", "log", "sin", "cos", "arctan")},
}


@functools.cache
def _compiled(expression: str):
    return compile(expression, "<NIST StRD>", "eval")


@functools.cache
def _tables() -> dict[str, dict]:
    file = importlib.resources.files("jaxfit") / "data" / "nist_strd.json"
    return json.loads(file.read_text())


def nist_names() -> tuple[str, ...]:
    """The names of the 27 data sets."""
    return tuple(_tables())


def nist(name: str) -> NistDataset:
    """The NIST StRD data set of this name, "Misra1a" for example.

    **Raises:** `ValueError` for an unknown name.
    """
    if name not in _tables():
        raise ValueError(f"`name` must be one of {list(_tables())}, got {name!r}.")
    table = _tables()[name]
    y = np.asarray(table["y"])
    return NistDataset(
        name=name,
        difficulty=table["difficulty"],
        expression=table["model"],
        response=table["response"],
        x={key: np.asarray(value) for key, value in table["x"].items()},
        y=np.log(y) if table["response"] == "log(y)" else y,
        starts=(np.asarray(table["start1"]), np.asarray(table["start2"])),
        certified=np.asarray(table["certified"]),
        std_dev=np.asarray(table["std_dev"]),
        residual_sum_of_squares=table["residual_sum_of_squares"],
        residual_std_dev=table["residual_std_dev"],
        degrees_of_freedom=table["degrees_of_freedom"],
    )
