"""The jackknife against refits by SciPy without each datum."""

import numpy as np
from replicates import USED, M, at_solution, fitted, flat, refit

import jaxfit
from jaxfit import TRF


def test_jackknife_is_the_fits_without_each_datum():
    found = jaxfit.jackknife(*fitted(), solver=TRF())
    errors, fits = np.sqrt(np.diag(at_solution()[2])), []
    samples = np.stack([found.params[k] for k in ("amp", "base", "rate")], axis=1)
    for i in range(M):
        if USED[i]:
            fits.append(refit(rows=USED & (np.arange(M) != i)))
            assert np.max(np.abs(samples[i] - fits[-1]) / errors) < 1e-6
        else:
            assert np.isnan(samples[i]).all()
    count, fits = USED.sum(), np.array(fits)
    assert np.all(np.asarray(found.status)[USED] > 0)
    covariance = np.cov(fits.T, ddof=0) * (count - 1)
    np.testing.assert_allclose(found.covariance(), covariance, rtol=1e-5)
    np.testing.assert_allclose(
        flat(found.errors()), np.sqrt(np.diag(covariance)), rtol=1e-5
    )
    bias = (count - 1) * (fits.mean(axis=0) - flat(found.estimate))
    assert np.max(np.abs(flat(found.bias()) - bias) / errors) < 1e-4
