"""Trees of arrays cut, joined, lengthened, and made of vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfit._basics.trees import as_rows, joined, on_some, padded, take, unravel_as


TREE = {"peak": {"width": 1.0, "height": 2.0}, "base": np.zeros(2)}
ROWS = {"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3)}
equal = np.testing.assert_array_equal


@pytest.mark.parametrize(
    ("which", "places"),
    [
        (slice(1, None), [1, 2]),
        (np.array([2, 0]), [2, 0]),
        ([True, False, True], [0, 2]),
    ],
)
def test_rows_are_taken_of_every_array(which, places):
    found = take(ROWS, which)
    equal(found["a"], ROWS["a"][places])
    equal(found["b"], places)


def test_trees_are_joined_one_below_the_other():
    found = joined([ROWS, take(ROWS, slice(0, 1))])
    equal(found["b"], [0, 1, 2, 0])
    equal(found["a"], ROWS["a"][[0, 1, 2, 0]])
    assert type(found["a"]) is np.ndarray


def test_a_mask_of_one_tree_stays_a_mask():
    masked = {**ROWS, "b": np.ma.masked_equal(ROWS["b"], 1)}
    found = joined([ROWS, masked])
    assert type(found["a"]) is np.ndarray
    equal(np.ma.getmaskarray(found["b"]), [False, False, False, False, True, False])


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
def test_padding_repeats_the_last_row(of):
    rows = of(ROWS["a"])
    found = padded(rows, 5)
    assert type(found) is type(rows) and found.dtype == rows.dtype
    equal(found, [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]])


@pytest.mark.parametrize("length", [3, 5])
def test_what_is_padded_is_a_copy(length):
    rows = ROWS["a"].copy()
    padded(rows, length)[:] = 0
    equal(rows, ROWS["a"])


def test_arrays_that_are_not_marked_stay_as_they_are():
    found = on_some(lambda a: a + 1, ROWS, {"a": True, "b": False})
    equal(found["a"], ROWS["a"] + 1)
    assert found["b"] is ROWS["b"]


def test_vectors_are_cut_up_like_parameters():
    flat = jnp.arange(8.0).reshape(2, 4)
    tree = unravel_as(TREE, flat)
    equal(tree["base"], flat[:, :2])
    equal(tree["peak"]["height"], flat[:, 2])
    equal(tree["peak"]["width"], flat[:, 3])
    equal(as_rows(tree), flat)
    equal(ravel_pytree(unravel_as(TREE, flat[0]))[0], flat[0])


def test_a_vector_that_is_cut_up_keeps_its_dtype():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    found = unravel_as(shapes, np.arange(4, dtype=np.int32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.int32)}
    assert found["base"].shape == (2,) and found["peak"]["width"].shape == ()
