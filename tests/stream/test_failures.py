"""Rows that are not finite, sources that fail, warm-ups."""

import numpy as np
import pytest
from streamed import HARD, Y_ODD, Y_PEAK, stream
from streams import (
    SIGMA,
    M,
    T,
    Watched,
    Y,
    agree,
    chunks,
    dense,
    peak,
    same_bits,
    same_path,
)

import jaxfit
from jaxfit import ReadError, SourceChangedError, Status, WarmUp


# --- Numbers that are not finite ---------------------------------------------------


BAD = [3, 63, 64, 150]


def with_bad_rows():
    x, y, sigma = T.copy(), Y_ODD.copy(), SIGMA.copy()
    x[3], y[63], sigma[64], sigma[150] = np.nan, np.inf, 0.0, -1.0
    return x, y, sigma


def test_rows_that_are_not_finite_are_refused():
    """By their number, also those that come late."""
    x, y, sigma = with_bad_rows()
    for begin, row in ((0, 3), (4, 63 - 4), (64, 0), (65, 150 - 65)):
        source = chunks(10, x[begin:], y[begin:], sigma[begin:])
        with pytest.raises(ValueError, match=rf"row {row} of the source .*'omit'"):
            stream(source, **HARD)


def test_rows_that_are_not_finite_are_left_out():
    good = np.delete(np.arange(M), BAD)
    expected = dense(x=T[good], y=Y_ODD[good], sigma=SIGMA[good], **HARD)
    for size in (10, 64):
        source = Watched(chunks(size, *with_bad_rows()))
        found = stream(source, nan_policy="omit", **HARD)
        agree(found.solution, expected)
        same_path(found.solution, expected)
        assert found.info["rows_used"] == M - 4 and found.info["rows_not_finite"] == 4


def test_blocks_without_a_good_row_count_for_nothing():
    y = Y.copy()
    y[:64] = np.nan
    expected = dense(x=T[64:], y=y[64:])
    found = stream(chunks(10, T, y), nan_policy="omit")
    agree(found.solution, expected)
    assert found.solution.num_rows == M - 64


def test_nan_may_propagate():
    found = stream(chunks(50, *with_bad_rows()), nan_policy="propagate", **HARD)
    assert found.solution.status == Status.NONFINITE_START
    assert not found.solution.success and found.info["passes"] == 1


# --- Sources that fail -------------------------------------------------------------


def failing(times, on=3):
    """Fails so many times on a chunk of every pass."""
    left = {"begun": None, "times": times}

    def before(source, i):
        if i != on:
            return
        if left["begun"] != source.finished:
            left.update(begun=source.finished, times=times)
        if left["times"]:
            left["times"] -= 1
            raise OSError("the disk is away")

    return before


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("jaxfit._stream.chunks.time.sleep", lambda seconds: None)


def test_chunks_that_fail_are_tried_again(no_waiting):
    undisturbed = stream()
    source = Watched(chunks(50), failing(2))
    found = stream(source, retries=2)
    same_bits(found, undisturbed)
    assert found.info["retries"] == 2 * found.info["passes"]
    read = found.info["chunks_read"]
    assert read == undisturbed.info["chunks_read"]
    assert found.info["success_rate"] == read / (read + found.info["retries"])


def test_a_chunk_that_always_fails_ends_the_fit(no_waiting, tmp_path):
    source = Watched(chunks(50), failing(100))
    with pytest.raises(ReadError, match=r"chunk 3 \(from row 150 on\).* 3 attempts"):
        stream(source, retries=2)
    with pytest.raises(ReadError, match="1 attempts: the disk is away") as caught:
        stream(source, retries=0, checkpoint=tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    source.before = None
    found = stream(source, checkpoint=tmp_path)
    assert found.info["resumed"]
    same_bits(found, stream())


def test_an_error_in_the_first_chunk(no_waiting):
    with pytest.raises(ReadError, match=r"chunk 0 .*2 attempts"):
        stream(Watched(chunks(50), failing(100, on=0)), retries=1)


@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_a_source_must_not_change(change):
    def before(source, i):
        if source.finished == 2 and i == 4:
            if change == "longer":
                source.listed = source.listed + source.listed[:1]
            raise StopIteration

    class Changing(Watched):
        def __iter__(self):
            listed = self.listed
            if self.finished >= 2:
                listed = listed[:-1] if change == "shorter" else [*listed, listed[0]]
            yield from listed
            self.finished += 1

    rows = {"shorter": 200, "longer": M + 50}[change]
    text = f"gave {rows} rows in this pass, and {M} before"
    with pytest.raises(SourceChangedError, match=text):
        stream(Changing(chunks(50)))


def test_a_source_must_have_as_many_rows_as_it_says():
    source = Watched(chunks(50))
    source.num_rows = M + 1
    with pytest.raises(SourceChangedError, match=f"{M} rows in this pass, and {M + 1}"):
        stream(source)


# --- Warm-up -----------------------------------------------------------------------


FAR = {"model": peak, "p0": np.array([1.0, 1.0, 2.0])}


def test_a_warm_up_saves_passes():
    cold = stream(chunks(50, T, Y_PEAK), **FAR)
    source = Watched(chunks(50, T, Y_PEAK))
    warm = stream(source, warm_up=True, **FAR)
    assert warm.info["passes"] < cold.info["passes"]
    np.testing.assert_allclose(warm.solution.params, cold.solution.params, rtol=1e-7)
    assert warm.info["warm_up_rows"] == M and warm.info["warm_up_steps"] > 0
    assert warm.info["warm_up_cost_ratio"] < 1
    # A list is sampled in a pass of its own.
    assert source.finished == warm.info["passes"] + 1


def test_a_warm_up_samples_evenly_and_stays_within_bounds():
    bounds = ([0, 1.5, 0.1], [2.8, np.inf, 2.1])  # the first one is met
    given = {**FAR, "p0": np.array([1.0, 1.6, 2.0]), "bounds": bounds}
    cold = stream(chunks(50, T, Y_PEAK), **given)
    how = WarmUp(rows=100, max_steps=200, patience=5)
    for source in (chunks(50, T, Y_PEAK), jaxfit.ArraySource(T, Y_PEAK)):
        warm = stream(source, warm_up=how, **given)
        assert 50 <= warm.info["warm_up_rows"] <= 200
        np.testing.assert_allclose(
            warm.solution.params, cold.solution.params, rtol=1e-6
        )
        assert warm.solution.params[0] <= 2.8
        np.testing.assert_array_equal(warm.solution.active_mask, [1, 0, 0])


def test_a_warm_up_leaves_bad_rows_out():
    y = Y_PEAK.copy()
    y[::9] = np.nan
    source = chunks(50, T, y)
    warm = stream(source, warm_up=True, nan_policy="omit", **FAR)
    assert warm.solution.success
    assert warm.info["warm_up_rows"] == np.isfinite(y).sum() == warm.info["rows_used"]
