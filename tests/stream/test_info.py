"""The account of a fit of large data: typed attributes, and a mapping of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


T = np.linspace(0, 1, 100)


@pytest.fixture(scope="module")
def info():
    return jaxfit.fit_large_dataset(
        lambda t, a, b: a * t + b, T, 2 * T + 1, [1.0, 1.0], strategy="streamed"
    ).info


def test_attributes_and_entries_are_the_same(info):
    assert info.num_rows == info["num_rows"] == 100
    assert info.solution is info["solution"] and info.plan.strategy == info.strategy
    assert dict(info) == {f.name: info[f.name] for f in dataclasses.fields(info)}
    assert len(info) == len(list(info)) and "passes" in info and "pass" not in info


def test_what_did_not_happen_is_told_too(info):
    assert (info.checkpoints, info.warm_up_rows, info.warm_up_cost_ratio) == (0, 0, 1)
    assert info.resumed is False


def test_an_account_is_not_to_be_changed(info):
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.passes = 0
    with pytest.raises(KeyError):
        info["no such entry"]


def test_a_stream_has_no_plan():
    found = jaxfit.fit_stream(
        lambda t, p: p[0] * t + p[1], [(T, 2 * T + 1)], jnp.ones(2), warm_up=True
    )
    assert "plan" not in found.info and found.info.warm_up_rows == 100
