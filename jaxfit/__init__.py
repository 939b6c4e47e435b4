"""jaxfit: bounded nonlinear least squares in pure JAX, a whole fit as one function."""

from . import datasets as datasets
from ._curve_fit import CurveFit as CurveFit
from ._curve_fit import curve_fit as curve_fit
from ._fit_result import CurveFitResult as CurveFitResult
from ._fit_result import FitError as FitError
from ._from_numpy import from_numpy as from_numpy
from ._hessian import hessian as hessian
from ._least_squares import least_squares as least_squares
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
