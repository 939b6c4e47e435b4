"""Checkpoints of other fits are refused, those of this one are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import DATA, ROWS, stream
from streams import START, chunks, decay

import jaxfit
from jaxfit import TRF, CheckpointError


def shifted(x, p):
    return decay(x, p) + 1e-3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"model": shifted}, "model"),
        ({"loss": "huber"}, "loss"),
        ({"f_scale": 2.0, "loss": "soft_l1"}, "loss"),
        ({"p0": START * 1.5}, "start"),
        ({"bounds": (-9.0, 9.0)}, "bounds"),
        ({"solver": TRF(ftol=1e-3)}, "solver"),
        ({"solver": TRF(linear_solver="qr")}, "solver"),
        ({"solver": TRF(trials=2)}, "solver"),
        ({"chunk_size": 40}, "chunk_size"),
        ({"source": chunks(20, DATA[0], DATA[1] + 1e-9)}, "data"),
        ({"source": chunks(20, *DATA, np.ones(ROWS))}, "data"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, options, what):
    """By name, before any pass; the folder is left as it is."""
    stream(checkpoint=tmp_path)
    before = (tmp_path / "latest.npz").read_bytes()
    words = rf"is of another fit: its [^']*{what}[^']* is .* another folder, .*resume=F"
    with pytest.raises(CheckpointError, match=words):
        stream(checkpoint=tmp_path, **options)
    assert (tmp_path / "latest.npz").read_bytes() == before
    assert issubclass(CheckpointError, ValueError)


def test_a_model_that_captures_other_numbers_is_another_model(tmp_path):
    def model(shift):
        values = np.linspace(0, shift, 300)
        return lambda x, p: decay(x, p) + jnp.sum(0 * x[:, None] + values, axis=1)

    stream(model=model(1e-3), checkpoint=tmp_path)
    assert stream(model=model(1e-3), checkpoint=tmp_path).info["resumed"]
    with pytest.raises(CheckpointError, match="its model"):
        stream(model=model(2e-3), checkpoint=tmp_path)


def test_a_source_that_grew_is_not_what_was_fitted(tmp_path):
    """The first chunk is the same one; an old answer would not know the others."""
    stream(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"rows|data"):
        stream(chunks(20, *(np.tile(a, 2) for a in DATA)), checkpoint=tmp_path)
    source = jaxfit.ArraySource(*(np.tile(a, 2) for a in DATA))
    with pytest.raises(ValueError, match=r"rows|data"):
        stream(source, checkpoint=tmp_path)


def test_how_chunks_are_cut_makes_no_other_fit(tmp_path):
    stream(checkpoint=tmp_path)
    for source in (chunks(33, *DATA), jaxfit.ArraySource(*DATA)):
        assert stream(source, checkpoint=tmp_path).info["resumed"]


def test_functions_are_known_by_what_they_do_not_where_they_are(tmp_path):
    """A new process has its functions at other addresses."""

    def functions():
        def model(x, p):
            return jax.nn.softplus(p[1]) * 0 + decay(x, p)

        def loss(z):
            return 2 * (jnp.sqrt(1 + z) - 1)

        return model, loss

    for _ in range(2):
        model, loss = functions()
        found = stream(model=model, loss=loss, checkpoint=tmp_path)
    assert found.info["resumed"]


def test_a_jacobian_is_known_by_what_it_does(tmp_path):
    def jacobian(factor=1.0):
        def slopes(x, p):
            e = jnp.exp(-p[1] * x)
            return jnp.stack([e, -p[0] * x * e, factor * jnp.ones_like(x)], axis=1)

        return TRF(linear_solver="gram", jacobian=slopes)

    stream(solver=jacobian(), checkpoint=tmp_path)
    assert stream(solver=jacobian(), checkpoint=tmp_path).info["resumed"]
    with pytest.raises(CheckpointError, match="model or loss"):
        stream(solver=jacobian(1.5), checkpoint=tmp_path)
