"""jaxfit: bounded nonlinear least squares in pure JAX, a whole fit as one function."""

from . import datasets as datasets
from ._linearise import Gram as Gram, Triangle as Triangle
from ._problem import Problem as Problem, curve_problem as curve_problem
from ._result import Solution as Solution
from ._solve import solve as solve
from ._status import Status as Status
from ._trf import TRF as TRF, History as History, State as State
