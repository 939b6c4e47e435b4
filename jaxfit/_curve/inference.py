"""Methods of a curve fit's result that answer questions about its uncertainty.

Each is the function of the same name for the kernel's problem and solution, over the
free parameters, which are called by their names. The noise is known where
`absolute_sigma` said so.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from .._basics.precision import precision
from .._diagnosis.checkup import Checkup
from .._diagnosis.diagnose import diagnose
from .._diagnosis.findings import Finding, HealthReport
from .._diagnosis.goodness import Goodness, goodness_of_fit
from .._posterior.laplace import Laplace, laplace
from .._solve.noise import CostNoise, Noise
from .._uncertainty.bootstrap import Bootstrap, bootstrap
from .._uncertainty.contour import Contour, contour
from .._uncertainty.covariance import Covariance, Kind, covariance
from .._uncertainty.influence import Influence, influence
from .._uncertainty.jackknife import Jackknife, jackknife
from .._uncertainty.profile import LEVELS, Profile, profile
from .._uncertainty.propagation import Propagated, propagate
from .._uncertainty.resampling import Resampling
from .program import problem_and_solver


class Inference:
    """Methods of a result that fit again, or look at the fit's rows once more."""

    names: tuple[str, ...]
    popt: np.ndarray
    fixed: np.ndarray
    absolute_sigma: bool
    solution: Any

    def profile(
        self, params: Any = None, levels: float | Sequence[float] = LEVELS
    ) -> Profile:
        """Profile-likelihood intervals, as of [`jaxfit.profile`][]."""
        with self._again() as (problem, solver):
            return profile(
                problem,
                self.solution,
                params,
                levels,
                noise=self._noise,
                solver=solver,
                names=self._free_names,
            )

    def contour(
        self,
        params: Sequence[Any],
        levels: float | Sequence[float] = LEVELS,
        points: int = 48,
    ) -> Contour:
        """The joint region of two parameters, as of [`jaxfit.contour`][]."""
        with self._again() as (problem, solver):
            return contour(
                problem,
                self.solution,
                params,
                levels,
                points=points,
                noise=self._noise,
                solver=solver,
                names=self._free_names,
            )

    def bootstrap(
        self, n: int = 1000, key: Any = 0, kind: Resampling = "residual"
    ) -> Bootstrap:
        """Fits of resampled data, as of [`jaxfit.bootstrap`][].

        Their parameters are the free ones, (n, free), in the order of `names`.
        """
        known = self._noise if kind == "parametric" else "estimated"
        with self._again() as (problem, solver):
            return bootstrap(
                problem, self.solution, n, key, kind=kind, noise=known, solver=solver
            )

    def jackknife(self) -> Jackknife:
        """Fits without one datum each, as of [`jaxfit.jackknife`][]."""
        with self._again() as (problem, solver):
            return jackknife(problem, self.solution, solver=solver)

    def influence(self) -> Influence:
        """What each datum does to the fit, as of [`jaxfit.influence`][]."""
        with self._again() as (problem, solver):
            return influence(problem, self.solution, noise=self._noise, solver=solver)

    def covariance_of(
        self,
        kind: Kind = "gauss_newton",
        noise: Noise | None = None,
        active: Literal["drop", "keep"] = "drop",
    ) -> Covariance:
        """The covariance of another kind, as of [`jaxfit.covariance`][]."""
        if kind != "sandwich" and noise is None:
            noise = self._noise
        with self._again() as (problem, solver):
            return covariance(
                problem,
                self.solution,
                kind=kind,
                noise=noise,
                active=active,
                solver=solver,
            )

    def propagate(
        self, fn: Callable[..., Any], kind: Kind = "gauss_newton"
    ) -> Propagated:
        """Errors of `fn(*params)`, of all parameters, by [`jaxfit.propagate`][]."""
        given = self.covariance_of(kind)
        free = np.flatnonzero(~self.fixed)

        def of_free(p):
            return fn(*jnp.asarray(self.popt).at[free].set(p))

        with precision(self.popt.dtype):
            return propagate(of_free, given)

    def goodness_of_fit(self) -> Goodness:
        """Tests of the residuals, as of [`jaxfit.goodness_of_fit`][]."""
        with self._again() as (problem, _):
            return goodness_of_fit(problem, self.solution, noise=self._noise)

    def laplace(self, prior: Callable[[Any], Any] | None = None) -> Laplace:
        """The normal approximation of the posterior, by [`jaxfit.laplace`][].

        Its `density` is for samplers. `prior` takes the free parameters, one vector.
        """
        with self._again() as (problem, _):
            return laplace(problem, self.solution, prior=prior, noise=self._noise)

    def diagnose(
        self, analysers: Sequence[Callable[[Checkup], Iterable[Finding]]] = ()
    ) -> HealthReport:
        """What is wrong with the fit, as of [`jaxfit.diagnose`][]."""
        with self._again() as (problem, solver):
            return diagnose(
                problem,
                self.solution,
                noise=self._noise,
                analysers=analysers,
                solver=solver,
                names=self._free_names,
            )

    @property
    def _noise(self) -> CostNoise:
        return "known" if self.absolute_sigma else "estimated"

    @property
    def _free_names(self) -> tuple[str, ...]:
        return tuple(self.names[i] for i in np.flatnonzero(~self.fixed))

    @contextlib.contextmanager
    def _again(self) -> Iterator[tuple[Any, Any]]:
        """The kernel's problem and solver, in the precision of the fit."""
        prepared = self.__dict__.get("prepared")
        if prepared is None:
            raise ValueError(
                "this result was read back, and knows no data to fit again: make it "
                "anew by jaxfit.curve_fit."
            )
        with precision(self.popt.dtype), prepared.on_host():
            yield problem_and_solver(prepared)
