"""One number, one home: every public way to a number gives the same one.

Twelve kinds of problem, each with noise that is known and estimated. Every way is
compared with formulas in NumPy at the parameters that it came to, to 1e-12; what
differs does so for one of three reasons, named where it is met:

    SCIPY       SciPy's pcov at SciPy's door: s^2 = 2 cost / (m - n) with a robust loss
                too, and active bounds disregarded
    NOISE       noise known against estimated: s^2 = 1 against s^2 = S / dof
    OBSERVED    observed against expected information: H against J'J

"What each number means" in the documentation has the formulas.
"""

import contextlib
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import jaxfit
from jaxfit import TRF


M, NAMES = 24, ("a", "b", "c", "e")
X = np.linspace(0.0, 3.0, M)
NOISE = 0.08 * np.random.default_rng(11).standard_normal(M)
NOISE[[5, 17]] += [0.4, -0.35]
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + NOISE
EVEN, UNEVEN = np.full(M, 0.1), np.linspace(0.06, 0.14, M)
ALL, SOME = np.ones(M, bool), np.arange(M) % 5 != 2
TOP = 0.3  # below the best offset
KNOWN = {"known": True, "estimated": False}
RTOL = 1e-12


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of problem: what is fixed, where the offset ends, which data count."""

    loss: str = "linear"
    sigma: Any = dataclasses.field(default_factory=lambda: EVEN)
    mask: Any = dataclasses.field(default_factory=lambda: ALL)
    fixed: tuple[str, ...] = ("e",)
    active: bool = False

    @property
    def robust(self):
        return self.loss != "linear"

    @property
    def free(self):
        return np.array([name not in self.fixed for name in NAMES])

    @property
    def held(self):
        return ~self.free | (np.array([name == "c" for name in NAMES]) & self.active)

    @property
    def lost(self):
        return np.array([name in "ae" and not self.fixed for name in NAMES])

    @property
    def start(self):
        return np.array([2.4, 1.25, TOP if self.active else 0.45, 0.0])

    @property
    def bounds(self):
        """Equal for what is fixed; below the best offset for an active one."""
        lower, upper = np.full(4, -9.0), np.full(4, 9.0)
        lower[~self.free] = upper[~self.free] = self.start[~self.free]
        if self.active:
            upper[2] = TOP
        return lower, upper

    @property
    def problem(self):
        of = {"sigma": self.sigma, "mask": self.mask, "bounds": self.bounds}
        return jaxfit.curve_problem(decay, X, Y, self.start, loss=self.loss, **of)


OPTIONS = {
    "plain": {},
    "weights": {"sigma": UNEVEN},
    "mask": {"mask": SOME},
    "fixed": {"fixed": ("b", "e")},
    "active bound": {"active": True, "sigma": UNEVEN},
    "undetermined": {"fixed": (), "mask": SOME},
}
KINDS = {name: Kind(**options) for name, options in OPTIONS.items()}
for name, options in OPTIONS.items():
    KINDS[f"robust, {name}"] = Kind(loss="soft_l1", **options)


def decay(x, p):
    """Only a + e is seen of both."""
    a, b, c, e = p
    return (a + e) * jnp.exp(-b * x) + c


def curve(x, a, b, c, e):
    return (a + e) * jnp.exp(-b * x) + c


class Formulas:
    """What each number is, by NumPy, at parameters x of a kind of problem."""

    def __init__(self, kind, x):
        self.kind, used = kind, kind.mask
        a, b, c, e = np.asarray(x, float)
        sigma, t = kind.sigma[used], X[used]
        f = np.exp(-b * t)
        j = np.stack([f, -(a + e) * t * f, np.ones_like(f), f], axis=1)
        self.r = ((a + e) * f + c - Y[used]) / sigma
        z = self.r**2 if kind.robust else 0 * self.r  # soft_l1 with f_scale = 1
        self.psi, self.slope = self.r / np.sqrt(1 + z), (1 + z) ** -1.5
        self.j = j / sigma[:, None] * np.sqrt(self.slope)[:, None]
        rho = z / (np.sqrt(1 + z) + 1) if kind.robust else 0.5 * self.r**2
        self.cost, self.m = np.sum(rho), len(t)
        self.k = int((~kind.held).sum())
        self.dof = self.m - self.k

    def variance(self, noise):
        """s^2: 1, 2 cost / dof, or sum(psi^2) / mean(psi') / dof."""
        if noise == "known":
            return 1.0
        squares = self.psi @ self.psi / self.slope.mean()
        return (squares if self.kind.robust else 2 * self.cost) / self.dof

    def inverse(self, held):
        """(J' psi' J)^-1, with the rule for what is held and undetermined."""
        # Of a + e one number is seen: the others have the errors of e being fixed.
        which = ~held & ~(self.kind.lost & (np.arange(4) == 3))
        root = np.linalg.inv(np.linalg.qr(self.j[:, which])[1])
        out, lost = np.zeros((4, 4)), self.kind.lost
        out[np.ix_(which, which)] = root @ root.T
        out[lost], out[:, lost] = np.nan, np.nan
        out[lost, lost] = np.inf
        return out

    def covariance(self, noise):
        return self.variance(noise) * self.inverse(self.kind.held)

    def errors(self, noise):
        return np.sqrt(np.diagonal(self.covariance(noise)))

    def pcov(self, noise):
        """SCIPY: what `scipy.optimize.curve_fit` makes of the same J and cost."""
        count = self.m - int(self.kind.free.sum())
        scale = 1.0 if noise == "known" else 2 * self.cost / count
        return scale * self.inverse(~self.kind.free)

    @property
    def correlation(self):
        return correlation(self.inverse(self.kind.held))

    @property
    def leverage(self):
        which = ~self.kind.held & ~(self.kind.lost & (np.arange(4) == 3))
        return np.sum(np.linalg.qr(self.j[:, which])[0] ** 2, axis=1)

    def criteria(self, noise):
        """AIC, AICc and BIC."""
        m, k, squares = self.m, self.k, 2 * self.cost
        deviance = squares if noise == "known" else m * np.log(squares / m)
        aic = deviance + 2 * k
        return aic, aic + 2 * k * (k + 1) / (m - k - 1), deviance + k * np.log(m)


def correlation(matrix):
    size = np.sqrt(np.diagonal(matrix))
    size = np.where(np.isfinite(size) & (size > 0), size, np.nan)
    return matrix / np.outer(size, size)


def same(actual, desired, rtol=RTOL):
    """Equal to `rtol` of the largest number, infinite and NaN in the same places."""
    actual, desired = np.asarray(actual, float), np.asarray(desired, float)
    size = np.abs(desired[np.isfinite(desired)]).max(initial=0)
    np.testing.assert_allclose(actual, desired, rtol, rtol * size)


def expected_warning(kind):
    """curve_fit says where pcov could not be estimated."""
    if kind.lost.any():
        return pytest.warns(scipy.optimize.OptimizeWarning)
    return contextlib.nullcontext()


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def fit(kind):
    """A problem, its solution, and the formulas there."""
    problem = kind.problem
    solution = jaxfit.solve(problem)
    assert solution.success
    x = np.asarray(solution.params)
    np.testing.assert_array_equal(np.asarray(solution.active_mask) != 0, kind.held)
    return problem, solution, Formulas(kind, x)


noises = pytest.mark.parametrize("noise", KNOWN)


# --- Standard errors, covariances, correlations ------------------------------------


@noises
def test_solution_covariance(fit, noise):
    _, solution, at = fit
    same(solution.covariance(scaled=noise == "estimated"), at.covariance(noise))
    assert int(solution.dof) == at.dof
    same(solution.cost, at.cost)


@noises
def test_covariance_and_propagate(kind, fit, noise):
    problem, solution, at = fit
    found = jaxfit.covariance(problem, solution, noise=noise)
    same(found.matrix, at.covariance(noise))
    same(found.errors, at.errors(noise))
    same(found.correlation, at.correlation)
    same(found.variance, at.variance(noise))
    derived = jaxfit.propagate(lambda p: p, found)
    same(derived.errors, at.errors(noise))
    same(derived.covariance(), at.covariance(noise))
    same(derived.correlation(), at.correlation)
    kept = jaxfit.covariance(problem, solution, noise=noise, active="keep")
    if noise == "known" or not kind.robust:  # SCIPY: on request
        same(kept.matrix, at.pcov(noise))


@noises
def test_checkup(fit, noise):
    problem, solution, at = fit
    checkup = jaxfit.Checkup(problem, solution, TRF(), noise)
    same(checkup.errors, at.errors(noise))
    same(checkup.correlation, at.correlation)
    same(checkup.noise_deviation**2, at.variance(noise))
    same(checkup.hat, at.leverage)
    assert checkup.dof == at.dof


def test_health_report(fit):
    problem, solution, at = fit
    report = jaxfit.diagnose(problem, solution)
    same(report.correlation, at.correlation)
    same(report.residuals, at.r / np.sqrt(at.variance("estimated")))
    found = jaxfit.covariance(problem, solution)
    assert report.rank == int(found.rank)


@noises
def test_influence(kind, fit, noise):
    problem, solution, at = fit
    found = jaxfit.influence(problem, solution, noise=noise)
    same(np.asarray(found.leverage)[kind.mask], at.leverage)
    whole = at.psi / np.sqrt(at.slope * (1 - at.leverage) * at.variance(noise))
    same(np.asarray(found.studentised)[kind.mask], whole)


@noises
def test_profile_and_quantile(kind, fit, noise):
    if "b" in kind.fixed or kind.active:
        pytest.skip("the same program as of other kinds")
    problem, solution, at = fit
    found = jaxfit.profile(problem, solution, ["params[1]"], 0.9, noise=noise)
    same(found.errors, at.errors(noise)[1:2])
    same(found.reach, [quantile(0.9, at.dof, noise)])


def quantile(level, dof, noise):
    if noise == "known":  # NOISE
        return scipy.stats.norm.ppf(0.5 + 0.5 * level)
    return scipy.stats.t.ppf(0.5 + 0.5 * level, dof)


@pytest.mark.parametrize("form", ["gram", "qr"])
def test_other_forms_and_batches(kind, fit, form):
    solver = TRF(linear_solver=form)
    one = jaxfit.solve(fit[0], solver)
    many = jaxfit.solve_batch([fit[0]] * 2, solver)
    for noise in KNOWN:
        scaled = noise == "estimated"
        at = Formulas(kind, one.params)
        same(one.covariance(scaled), at.covariance(noise))
        at = Formulas(kind, many.params[1])
        same(many.covariance(scaled)[1], at.covariance(noise))
        same(many.perr(scaled)[1], at.errors(noise))
        np.testing.assert_array_equal(many.dof, at.dof)


def test_stream(kind, fit):
    source = jaxfit.ArraySource(X, Y, kind.sigma, mask=kind.mask)
    streamed, _ = jaxfit.fit_stream(
        decay, source, kind.start, bounds=kind.bounds, loss=kind.loss
    )
    at = Formulas(kind, streamed.params)
    assert int(streamed.dof) == at.dof
    same(streamed.covariance(scaled=False), at.covariance("known"))
    if kind.robust:  # it keeps no residuals, and says so
        with pytest.raises(ValueError, match="keeps no residuals"):
            streamed.covariance()
    else:
        same(streamed.covariance(), at.covariance("estimated"))
    # With the residuals at hand there is nothing to miss.
    found = jaxfit.covariance(fit[0], streamed)
    same(found.matrix, at.covariance("estimated"))


# --- SciPy's doors -----------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(kind):
    """Those of the doors: what is fixed by name, the other bounds."""
    lower, upper = (
        np.where(kind.free, b, s * 9.0)
        for b, s in zip(kind.bounds, (-1, 1), strict=True)
    )
    fixed = {name: kind.start[NAMES.index(name)] for name in kind.fixed}
    out = {"p0": kind.start, "sigma": kind.sigma, "bounds": (lower, upper)}
    return out | {"fixed": fixed, "loss": kind.loss, "mask": kind.mask}


@pytest.fixture(scope="module", params=KNOWN)
def door(request, kind, arguments):
    """What curve_fit found with a kind of noise, and formulas there."""
    known = KNOWN[request.param]
    with expected_warning(kind):
        found = jaxfit.curve_fit(curve, X, Y, absolute_sigma=known, **arguments)
    return request.param, found, Formulas(kind, found.popt)


def test_curve_fit(kind, door):
    noise, found, at = door
    inner = np.ix_(kind.free, kind.free)
    given = found.covariance_of()
    same(given.matrix, at.covariance(noise)[inner])
    same(given.correlation, at.correlation[inner])
    same(given.variance, at.variance(noise))
    scaled = noise == "estimated"
    same(found.solution.covariance(scaled), at.covariance(noise)[inner])
    same(found.propagate(lambda *p: jnp.stack(p)).errors, at.errors(noise))
    assert found.dof == at.dof == int(found.solution.dof)


def test_pcov_of_curve_fit_and_what_is_made_of_it(kind, door):
    """SCIPY where the loss is robust or a bound active; else it is the covariance."""
    noise, found, at = door
    theirs = at.pcov(noise)
    same(found.covariance, theirs)
    same(found.pcov, np.full((4, 4), np.inf) if kind.lost.any() else theirs)
    same(found.perr, np.sqrt(np.diagonal(theirs)))
    same(found.correlation, correlation(theirs))
    q = quantile(0.9, at.m - int(kind.free.sum()), noise)
    interval = found.confidence_interval(0.9)
    well = np.isfinite(found.perr) & (found.perr > 0)
    same(np.diff(interval)[well, 0], 2 * (q * found.perr)[well], 1e-11)
    lower, upper = found.confidence_band(X, 0.9)
    # The sum a + e is determined where neither is.
    assert np.all(np.isfinite(upper))
    if not kind.active and (noise == "known" or not kind.robust):
        same(theirs, at.covariance(noise))
        band = found.propagate(lambda *p: curve(X, *p))
        same((upper - lower) / 2, q * band.errors, 1e-11)


@pytest.mark.parametrize("known", [True, False])
def test_pcov_of_a_batch(kind, arguments, known):
    noise = "known" if known else "estimated"
    many = jaxfit.curve_fit_batch(
        curve, X, np.stack([Y, Y]), absolute_sigma=known, **arguments
    )
    at = Formulas(kind, many.popt[1])
    same(many.pcov[1], at.pcov(noise))
    same(many.perr[1], np.sqrt(np.diagonal(at.pcov(noise))))
    np.testing.assert_array_equal(many.dof, at.dof)


def test_pcov_of_a_large_fit(kind, arguments):
    with expected_warning(kind):
        large = jaxfit.fit_large_dataset(curve, X, Y, **arguments)
    theirs = Formulas(kind, large.popt).pcov("estimated")
    same(large.pcov, np.full((4, 4), np.inf) if kind.lost.any() else theirs)


# --- chi2, degrees of freedom, information criteria ----------------------------------


@noises
def test_goodness_of_fit(fit, noise):
    problem, solution, at = fit
    found = jaxfit.goodness_of_fit(problem, solution, noise=noise)
    same(found.chi2, at.r @ at.r)
    same(found.reduced_chi2, at.r @ at.r / at.dof)
    same([found.aic, found.aicc, found.bic], at.criteria(noise))
    assert int(found.dof) == at.dof


def test_measures_of_curve_fit(kind, door):
    noise, found, at = door
    chi2 = at.r @ at.r
    for way in (found, found.measures, found.goodness_of_fit()):
        same([way.chi2, way.reduced_chi2], [chi2, chi2 / at.dof])
        same([way.aic, way.aicc, way.bic], at.criteria(noise))
    if not kind.robust:
        same(at.variance("estimated"), found.reduced_chi2)


@noises
def test_comparison(kind, fit, noise):
    """With the model of one parameter less, whose rate is fixed."""
    if "b" in kind.fixed:
        pytest.skip("the rate is fixed already")
    _, solution, at = fit
    start = kind.start
    less = dataclasses.replace(kind, fixed=(*kind.fixed, "b"))
    lower, upper = kind.bounds
    lower[1] = upper[1] = start[1] = 1.6  # the offset is at its bound there too
    of = {"sigma": kind.sigma, "mask": kind.mask, "bounds": (lower, upper)}
    there = jaxfit.curve_problem(decay, X, Y, start, loss=kind.loss, **of)
    simple = jaxfit.solve(there)
    before = Formulas(less, simple.params)
    found = jaxfit.compare_models(simple, solution, noise=noise)
    aic, _, bic = np.subtract(at.criteria(noise), before.criteria(noise))
    size = np.abs(at.criteria(noise)).max() * RTOL
    np.testing.assert_allclose([found.aic, found.bic], [aic, bic], RTOL, size)
    np.testing.assert_array_equal(found.dof, [1, at.dof])
    fall = 2 * (before.cost - at.cost)
    if noise == "estimated":
        fall /= 2 * at.cost / at.dof
    same(found.statistic, fall, 1e-11)


# --- Observed information ------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "weights", "mask", "robust, plain"])
def test_laplace_is_the_observed_information(name):
    """OBSERVED: H^-1 for (J'J)^-1. Without bounds, in which u would be another."""
    kind = KINDS[name]

    def three(t, p):
        return p[0] * jnp.exp(-p[1] * t) + p[2]

    of = {"sigma": kind.sigma, "mask": kind.mask, "loss": kind.loss}
    there = jaxfit.curve_problem(three, X, Y, kind.start[:3], **of)
    tight = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)
    solution = jaxfit.solve(there, tight)

    def by_laplace(noise):
        found = jaxfit.laplace(there, solution, noise=noise)
        slope = jax.jacobian(found.density.constrain)(found.mean)
        at = eqx.tree_at(
            lambda s: s.params, solution, found.density.constrain(found.mean)
        )
        return slope @ found.covariance @ slope.T, at

    ours, at = by_laplace("known")
    exact = jaxfit.covariance(there, at, kind="hessian", noise="known")
    same(ours, exact.matrix, 1e-11)
    same(np.linalg.inv(jaxfit.hessian(there, at.params)), exact.matrix, 1e-11)
    expected = jaxfit.covariance(there, solution, noise="known")
    assert np.abs(exact.errors / expected.errors - 1).max() > 1e-4
    if kind.robust:
        return
    # NOISE: integrated out it leaves Student's t, whose curvature has m for dof.
    ours, at = by_laplace("estimated")
    exact = jaxfit.covariance(there, at, kind="hessian")
    same(ours * kind.mask.sum() / int(solution.dof), exact.matrix, 1e-7)
