"""Coleman-Li geometry: each function against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._trf.bounds import Bounds


INF = np.inf
BOX = Bounds(jnp.array([0.0, -INF, 1.0, -INF]), jnp.array([2.0, 3.0, INF, INF]))


def test_coleman_li_vector():
    x = jnp.array([0.5, 1.0, 4.0, 9.0])
    v, dv = BOX.coleman_li(x, jnp.array([1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(v, [0.5, 1.0, 3.0, 1.0])
    np.testing.assert_array_equal(dv, [1, 0, 1, 0])
    v, dv = BOX.coleman_li(x, -jnp.ones(4))
    np.testing.assert_array_equal(v, [1.5, 2.0, 1.0, 1.0])
    np.testing.assert_array_equal(dv, [-1, -1, 0, 0])
    v, dv = BOX.coleman_li(x, jnp.zeros(4))
    np.testing.assert_array_equal(v, np.ones(4))
    np.testing.assert_array_equal(dv, np.zeros(4))


def test_stride_stops_at_the_first_bound_and_names_it():
    x, s = jnp.array([1.0, 1.0, 2.0, 0.0]), jnp.array([-1.0, 1.0, -0.25, 5.0])
    stride, hits = BOX.stride(x, s)
    assert stride == 1.0
    np.testing.assert_array_equal(hits, [True, False, False, False])
    stride, hits = BOX.stride(x, jnp.array([0.0, 0.0, 0.0, 1.0]))
    assert stride == INF and not hits.any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("lower", [0.0, -3.0, 1e-20, 7e5])
@pytest.mark.parametrize("width", [1.0, 1e-3, INF])
def test_interior_is_strictly_inside_and_no_denormal(dtype, lower, width):
    """nextafter(0) would be a denormal, which XLA may flush back onto the bound."""
    lo = jnp.full(2, lower, dtype)
    hi = jnp.full(2, lower + width, dtype)
    if not bool(jnp.all(hi > lo)):
        pytest.skip("the box has no inside in this precision")
    box = Bounds(lo, hi)
    for rstep in (0.0, 1e-10):
        x = box.interior(jnp.stack([lo[0], hi[1]]), rstep)
        assert np.all(x >= lo) and np.all(x <= hi)
        ulp = np.spacing(np.abs(np.asarray(lo)))
        if width > 4 * ulp[0]:
            assert x[0] > lo[0]
            assert x[0] - lo[0] >= np.finfo(dtype).tiny
            assert x[1] < hi[1] or np.isinf(hi[1])
        assert x[0] - lo[0] <= max(1.01e-3 * width, 2 * ulp[0])


def test_a_narrow_box_keeps_its_shape():
    """A gap of 1e-10 would be a hundred times this box."""
    box = Bounds(jnp.array([0.0]), jnp.array([1e-12]))
    x = box.interior(jnp.array([0.0]), 1e-10)
    assert 0 < x[0] <= 1.001e-15


def test_fixed_parameters_stay():
    box = Bounds(jnp.array([1.5, 0.0]), jnp.array([1.5, 1.0]))
    np.testing.assert_array_equal(box.fixed, [True, False])
    np.testing.assert_array_equal(box.interior(jnp.array([9.0, 0.5])), [1.5, 0.5])


def test_active_bounds_are_relative_to_the_parameters_size():
    box = Bounds(jnp.array([0.0, 0.0, 0.0]), jnp.array([INF, 1.0, 1.0]))
    size = jnp.array([1e-12, 1.0, 1.0])
    x = jnp.array([3e-12, 1e-9, 1 - 1e-9])
    np.testing.assert_array_equal(box.active(x, size), [0, -1, 1])


@pytest.mark.parametrize(
    ("dtype", "reach"), [(jnp.float64, 5.5e-7), (jnp.float32, 2e-3)]
)
def test_active_is_what_is_within_eps_to_the_power_of_two_fifths(dtype, reach):
    """A parameter of a thousandth of its size is not at its bound of 0."""
    box = Bounds(jnp.zeros(4, dtype), jnp.full(4, INF, dtype))
    size = jnp.array([1.0, 1.0, 1e-12, 1e-12], dtype)
    x = size * jnp.array([reach / 2, reach * 2, reach / 2, reach * 2], dtype)
    np.testing.assert_array_equal(box.active(x, size), [-1, 0, -1, 0])
    far = Bounds(jnp.full(4, -INF, dtype), jnp.full(4, 1e3, dtype))
    near = jnp.array([1e3 * (1 - reach / 2), 1e3 * (1 - reach * 2), 0, 0], dtype)
    np.testing.assert_array_equal(far.active(near, size), [1, 0, 0, 0])
