"""Names of parameters, and parameters by name."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfit._basics.names import indices_of, names_of


class Peak(eqx.Module):
    centre: jax.Array
    width: jax.Array


TREE = {
    "peak": {"width": 1.0, "height": 2.0},
    "base": np.zeros(2),
    "mixing": np.zeros((2, 2)),
}
NAMES = (
    "base[0]",
    "base[1]",
    "mixing[0, 0]",
    "mixing[0, 1]",
    "mixing[1, 0]",
    "mixing[1, 1]",
    "peak.height",
    "peak.width",
)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"b": 1.0, "a": 2.0}, ("a", "b")),
        ({"peak": {"width": 1.0, "height": 2.0}}, ("peak.height", "peak.width")),
        ({"width": np.zeros(2)}, ("width[0]", "width[1]")),
        ({"width": np.zeros(1)}, ("width[0]",)),
        ({"m": np.zeros((1, 2))}, ("m[0, 0]", "m[0, 1]")),
        ({"none": np.zeros(0), "a": 1.0}, ("a",)),
        ({"peaks": (1.0, 2.0)}, ("peaks.0", "peaks.1")),
        (np.zeros(3), ("params[0]", "params[1]", "params[2]")),
        (1.0, ("params",)),
        ((1.0, 2.0), ("params[0]", "params[1]")),
        ([1.0, np.zeros(2)], ("params[0]", "params[1][0]", "params[1][1]")),
        (Peak(jnp.zeros(()), jnp.zeros(2)), ("centre", "width[0]", "width[1]")),
        (TREE, NAMES),
    ],
)
def test_names_of_trees(params, names):
    assert names_of(params) == names


def test_names_are_in_the_order_of_the_numbers():
    flat, unravel = ravel_pytree(TREE)
    tree = unravel(jnp.arange(flat.size))
    names = names_of(tree)
    assert names[int(tree["peak"]["height"])] == "peak.height"
    assert names[int(tree["mixing"][1, 0])] == "mixing[1, 0]"
    assert names[int(tree["base"][1])] == "base[1]"


def test_given_names_are_taken():
    assert names_of({"a": 1.0, "b": np.zeros(2)}, ["u", "v", "w"]) == ("u", "v", "w")


@pytest.mark.parametrize("names", [["u"], ["u", "v", "w"], ["u", "u"], [], "u"])
def test_given_names_must_be_one_for_each_parameter(names):
    with pytest.raises(ValueError, match="`names` must be 2 different names"):
        names_of({"a": 1.0, "b": 2.0}, names)


@pytest.mark.parametrize(
    ("which", "places"),
    [
        (None, (0, 1, 2, 3, 4, 5, 6, 7)),
        ("peak.width", (7,)),
        ("peak", (6, 7)),
        ("base", (0, 1)),
        ("mixing", (2, 3, 4, 5)),
        ("mixing[1, 0]", (4,)),
        (3, (3,)),
        (np.int64(3), (3,)),
        (["peak.width", 0], (7, 0)),
        ((2, "base"), (2, 0, 1)),
        (["base", "base[1]", 1], (0, 1)),
    ],
)
def test_indices_of_names_and_numbers(which, places):
    assert indices_of(which, NAMES) == places


def test_a_name_is_not_a_prefix_of_another():
    assert indices_of("a", ("a", "ab", "a2")) == (0,)


@pytest.mark.parametrize(
    ("which", "near"),
    [
        ("peak.widht", "peak.width"),
        ("peek.height", "peak.height"),
        ("mixing[1,1]", "mixing[1, 1]"),
        (["base", "peak.hight"], "peak.height"),
    ],
)
def test_a_misspelled_name_gets_the_nearest_one(which, near):
    wrong = which if isinstance(which, str) else which[-1]
    with pytest.raises(ValueError) as caught:
        indices_of(which, NAMES)
    text = str(caught.value)
    assert text.startswith(f"`params` has no {wrong!r}: did you mean {near!r}?")
    assert all(name in text for name in NAMES)


def test_a_name_unlike_all_others_still_gets_the_list():
    with pytest.raises(ValueError, match=r"`params` has no 'zzz'.*There are a, b"):
        indices_of("zzz", ("a", "b"))


@pytest.mark.parametrize("place", [8, -1, 100])
def test_an_index_out_of_range_is_refused(place):
    text = rf"`params` holds {place}, but parameters are counted from 0 to 7"
    with pytest.raises(ValueError, match=text):
        indices_of(place, NAMES)


@pytest.mark.parametrize("which", [1.5, [0, None], {"a": 1}])
def test_what_is_neither_a_name_nor_an_index_is_refused(which):
    with pytest.raises(TypeError, match="`params` must hold names or indices"):
        indices_of(which, NAMES)


def test_no_parameter_at_all_is_refused():
    with pytest.raises(ValueError, match="`params` is empty: name one or more"):
        indices_of([], NAMES)
