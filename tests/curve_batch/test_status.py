"""Statuses of single fits: what spoils one changes no bit of the others."""

import numpy as np
import pytest
from curve_batches import (
    INF,
    MASK,
    NAN,
    SHAPE,
    SIGMA,
    STARTS,
    UPPER,
    XS,
    M,
    P,
    Y,
    fit,
    same_bits,
)

from jaxfit import Status


SEVERAL = {
    "xdata": XS,
    "p0": STARTS,
    "sigma": SIGMA,
    "mask": MASK,
    "bounds": (np.zeros((*SHAPE, 2)), UPPER),
    "clip_p0": True,
}


def spoilt(name, index, value):
    """The options with one fit's `name` replaced."""
    side = None
    if name == "bounds":
        index, side = index
    options = {"ydata": Y, **SEVERAL}
    values = options[name] if side is None else options[name][side]
    values = values.copy()
    values[index] = value
    if side is not None:
        both = list(options[name])
        both[side] = values
        values = tuple(both)
    return {**options, name: values}


@pytest.fixture(scope="module")
def clean():
    return fit(**SEVERAL)


@pytest.mark.parametrize(
    ("name", "at", "value", "status"),
    [
        ("ydata", (1, 2), NAN, Status.NONFINITE_START),
        ("ydata", (3, 4), INF, Status.NONFINITE_START),
        ("xdata", (0, 0), NAN, Status.NONFINITE_START),
        ("sigma", (0, 1), NAN, Status.NONFINITE_START),
        ("sigma", (0, 1), 0.0, Status.NONFINITE_START),
        ("mask", (2, 2), False, Status.TOO_FEW_DATA),
        ("mask", (2, 2), np.arange(M) == 5, Status.TOO_FEW_DATA),
        ("p0", (3, 1), [2.0, -900.0], Status.NONFINITE_START),
    ],
)
def test_a_fit_that_cannot_be_done_changes_no_bit_of_the_others(
    name, at, value, status, clean
):
    options = spoilt(name, at, value)
    if name == "p0":  # where it blows up is far outside
        options["bounds"] = (np.full((*SHAPE, 2), -INF), UPPER)
        clean = fit(**{**SEVERAL, "bounds": options["bounds"]})
    result = fit(**options)
    assert result.status[at] == status
    assert not result.success[at]
    assert np.isnan(result.popt[at]).all() and np.isnan(result.pcov[at]).all()
    assert np.isnan(result.perr[at]).all()
    others = np.ones(SHAPE, bool)
    others[at] = False
    same_bits(result, clean, others)
    assert [tuple(i) for i in np.transpose(result.failed)] == [at]
    assert result.outcomes[status] == 1


def test_a_start_outside_its_own_bounds(clean):
    options = spoilt("p0", (1, 1), [-1.0, 1.0])
    result = fit(
        **{
            **options,
            "clip_p0": False,
            "p0": np.where(
                np.arange(P).reshape(*SHAPE, 1) == 6, -1.0, np.clip(STARTS, 0, UPPER)
            ),
        }
    )
    assert result.status[1, 1] == Status.INFEASIBLE_START
    assert np.isnan(result.popt[1, 1]).all()
    others = np.ones(SHAPE, bool)
    others[1, 1] = False
    same_bits(result, clean, others)
    # Clipping saves it.
    assert fit(**options).success.all()


def test_a_start_that_is_not_finite(clean):
    result = fit(**spoilt("p0", (3, 0), [2.0, NAN]))
    assert result.status[3, 0] < 0 and np.isnan(result.popt[3, 0]).all()
    others = np.ones(SHAPE, bool)
    others[3, 0] = False
    same_bits(result, clean, others)


def test_data_that_are_not_finite_under_a_mask_are_not_seen(clean):
    hidden = ~MASK
    y, x, sigma = (np.where(hidden, NAN, a) for a in (Y, XS, SIGMA))
    result = fit(**{**SEVERAL, "ydata": y, "xdata": x, "sigma": sigma})
    same_bits(result, clean)


def test_all_fits_can_fail():
    result = fit(ydata=np.full_like(Y, NAN))
    assert not result.success.any() and np.isnan(result.popt).all()
    assert result.outcomes == {Status.NONFINITE_START: P}
    assert fit(ydata=np.full_like(Y, NAN), nan_policy="omit").outcomes == {
        Status.TOO_FEW_DATA: P
    }
