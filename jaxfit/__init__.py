"""jaxfit: bounded nonlinear least squares in pure JAX, a whole fit as one function."""

from . import datasets as datasets
from ._hessian import hessian as hessian
from ._linearise import Gram as Gram
from ._linearise import Triangle as Triangle
from ._problem import Problem as Problem
from ._problem import curve_problem as curve_problem
from ._result import Solution as Solution
from ._solve import solve as solve
from ._state import History as History
from ._state import State as State
from ._status import Status as Status
from ._trf import TRF as TRF
