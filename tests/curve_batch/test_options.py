"""Options of `curve_fit_batch` that SciPy has too."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from curve_batches import (
    INF,
    RNG,
    SHAPE,
    SLOW,
    TRUE,
    M,
    P,
    X,
    Y,
    as_scipy,
    close,
    decay,
    fit,
    same_bits,
    scipy_fit,
)

from jaxfit import Status, curve_fit_batch


def level(x, a, *, xp=jnp):
    return a * xp.exp(-x)


def blurred(x, a, b, *, xp=jnp):
    """Every prediction depends on three rows of x."""
    return xp.convolve(a * xp.exp(-b * x), xp.array([0.2, 0.5, 0.3]), mode="same")


def soft(z, *, xp=jnp):
    t = 1 + z
    return xp.stack([2 * (t**0.5 - 1), t**-0.5, -0.5 * t**-1.5])


def test_fixed_by_name_by_booleans_and_by_bounds():
    by_name = fit(fixed={"b": 1.2})
    assert (by_name.popt[..., 1] == 1.2).all()
    assert (by_name.pcov[..., 1, :] == 0).all() and (by_name.pcov[..., 1] == 0).all()
    assert (by_name.dof == M - 1).all()
    fixed_decay = functools.partial(decay, b=1.2)
    for i in np.ndindex(SHAPE):
        popt, pcov = scipy_fit(lambda x, a, xp: fixed_decay(x, a, xp=xp), y=Y[i], p0=1)
        close(by_name.popt[i][0], popt[0])
        close(by_name.pcov[i][0, 0], pcov[0, 0], 1e-6)
    same_bits(fit(p0=[2.0, 1.2], fixed=[False, True]), by_name)
    # Bounds that hold nothing else come to the same.
    result = fit(p0=[2.0, 1.2], bounds=([-INF, 1.2], [INF, 1.2]))
    close(result.popt, by_name.popt)
    close(result.pcov, by_name.pcov, 1e-6, 1e-12)


@SLOW
def test_equal_bounds_leave_a_degree_of_freedom():
    result = fit(p0=[2.0, 1.2], bounds=([-INF, 1.2], [INF, 1.2]))
    assert (result.dof == M - 1).all()


@SLOW
def test_held_at_starts_of_their_own():
    starts = np.stack([np.full(SHAPE, 2.0), TRUE[..., 1]], -1)
    result = fit(p0=starts, fixed=[False, True])
    np.testing.assert_array_equal(result.popt[..., 1], TRUE[..., 1])
    e = np.exp(-TRUE[..., 1:] * X)
    close(result.popt[..., 0], (e * Y).sum(-1) / (e * e).sum(-1))


@pytest.mark.parametrize("loss", ["soft_l1", pytest.param("callable", marks=SLOW)])
def test_robust_losses(loss):
    y = Y.copy()
    y[..., 4] += 0.8
    options = {"f_scale": 0.07}
    theirs = functools.partial(soft, xp=np) if loss == "callable" else loss
    ours = soft if loss == "callable" else loss
    result = fit(ydata=y, loss=ours, **options)
    as_scipy(result, lambda i: {"y": y[i], "loss": theirs, **options}, 1e-6)


def test_a_jacobian_of_the_users_is_called(plain):
    """One of twice the size shows in the covariance."""

    def slopes(x, a, b):
        return 2 * jnp.stack([jnp.exp(-b * x), -a * x * jnp.exp(-b * x)], axis=-1)

    result = fit(jac=slopes, ftol=1e-10, xtol=1e-10)
    close(result.popt, plain.popt, 1e-3)
    close(result.perr, plain.perr / 2, 1e-2)


def slopes(x, a, b):
    e = jnp.exp(-b * x)
    return jnp.stack([e, -a * x * e], axis=-1)


@pytest.mark.parametrize("held", [0, 1])
def test_a_jacobian_of_all_parameters_serves_the_free_ones(held):
    fixed = np.arange(2) == held
    result, reference = fit(jac=slopes, fixed=fixed), fit(fixed=fixed)
    close(result.popt, reference.popt, 1e-9)
    close(result.perr, reference.perr, 1e-7)
    np.testing.assert_array_equal(result.nfev, reference.nfev)


def shifted(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def test_scales_are_those_of_the_free_parameters():
    """Beside a parameter that is held a fit goes as that of a smaller model."""
    p0, scale = np.array([0.1, 2.0, 1.0]), np.array([1e-3, 1.0, 30.0])

    def begun(f=shifted, free=(0, 1, 2), sizes=scale, **options):
        few = {"x_scale": sizes, "p0": p0[list(free)], "max_nfev": 5}
        result = fit(f, **{**few, **options})
        assert (result.nfev == 5).all()
        return result.popt

    def without_a(x, b, c):
        return shifted(x, p0[0], b, c)

    def without_c(x, a, b):
        return shifted(x, a, b, p0[2])

    reference = begun(without_a, (1, 2), scale[1:])
    close(begun(fixed=[True, False, False])[..., 1:], reference, 1e-9)
    other = begun(without_a, (1, 2), scale[:2])
    assert np.abs(other / reference - 1).max() > 1e-6  # these scales matter
    reference = begun(without_c, (0, 1), scale[:2])
    close(begun(fixed=[False, False, True])[..., :2], reference, 1e-9)


def test_tolerances_and_the_number_of_evaluations(plain, without_kept_programs):
    loose = fit(ftol=1e-2, xtol=1e-2, gtol=0.0)
    assert loose.nfev.sum() < plain.nfev.sum()
    assert 0 < np.abs(loose.popt - plain.popt).max() < 0.05
    assert loose.compile_time < 1  # numbers are no part of a program
    few = fit(max_nfev=2)
    assert (few.status == Status.MAX_STEPS).all() and (few.nfev == 2).all()
    assert np.isfinite(few.popt).all() and not few.success.any()
    assert len(few.failed[0]) == P


@SLOW
def test_scales():
    as_scipy(fit(x_scale=[1.0, 3.0]), lambda i: {"y": Y[i]})


@SLOW
def test_without_covariance(plain):
    result = fit(covariance=False)
    popt, pcov = result
    assert pcov is None and result.perr is None and result.pcov is None
    close(popt, plain.popt, 1e-9)


@SLOW
def test_models_with_arrays_of_their_own_and_of_one_parameter(plain):
    weights = np.exp(0.1 * X)

    def weighted(x, a, b):
        return a * jnp.exp(-b * x) * (weights * jnp.asarray(np.exp(-0.1 * X)))

    close(fit(weighted).popt, plain.popt)
    as_scipy(fit(level, p0=1.0), lambda i: {"f": level, "y": Y[i], "p0": 1})
    assert fit(level, p0=[1.0]).popt.shape == (*SHAPE, 1)


def test_a_model_that_couples_rows():
    y = Y[0]
    as_scipy(fit(blurred, ydata=y), lambda i: {"f": blurred, "y": y[i]})


@SLOW
def test_more_parameters_than_the_lanes_do_by_arithmetic():
    """A polynomial of degree 12, whose parameters have no names."""
    x = np.linspace(-1.0, 1.0, 30)
    basis = np.polynomial.chebyshev.chebvander(x, 12)
    y = RNG.normal(size=(3, 30))

    def series(x, *p):
        return jnp.asarray(basis) @ jnp.stack(p)

    result = fit(series, x, y, np.zeros(13))
    close(result.popt, np.linalg.lstsq(basis, y.T)[0].T, 1e-8, 1e-10)
    assert result.names[0] == "p0" and list(result.params)[12] == "p12"


@SLOW
def test_a_start_is_guessed_or_the_models_own(plain):
    class Decay:
        def estimate_p0(self, xdata, ydata):
            assert xdata.shape == ydata.shape == (M,)
            return [ydata.max(), 1.0]

        def __call__(self, x, a, b):
            return decay(x, a, b)

    close(fit(p0="auto").popt, plain.popt, 1e-6)
    close(fit(Decay(), p0=None).popt, plain.popt, 1e-6)


def test_the_models_own_estimate_is_given_rows_with_data():
    class Decay:
        def estimate_p0(self, xdata, ydata):
            assert xdata.shape == ydata.shape == (M - 2,)
            return [ydata.max(), 1.0]

        def __call__(self, x, a, b):
            return decay(x, a, b)

    mask = np.arange(M) > 1
    y = np.where(mask, Y[:8], np.nan)
    found = curve_fit_batch(Decay(), X, y, mask=mask, devices=1)
    assert found.success.all()
    given = curve_fit_batch(decay, X, y, [1.0, 1.0], mask=mask, devices=1)
    close(found.popt, given.popt, 1e-6)
