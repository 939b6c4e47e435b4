"""Where streamed data come from: arrays and tables on disk, lists, objects."""

import jax
import numpy as np
import pytest
from streams import START, M, T, Watched, Y, chunks, decay

import jaxfit
from jaxfit import ArraySource, TableSource, fit_stream


W = np.linspace(0.5, 1.5, M)  # a second column


def fit(source, p0=START, model=decay, chunk_size=M, **options):
    """One block, so that all sources of the same numbers share a program."""
    return fit_stream(model, source, p0, chunk_size=chunk_size, **options)


@pytest.fixture(scope="module")
def expected():
    return fit([(T, Y)]).solution.params


def same(source, expected, **options):
    np.testing.assert_array_equal(fit(source, **options).solution.params, expected)


def rows_of(source, begin, rows):
    """All that `chunks` gives, and the lengths of its chunks."""
    found = list(source.chunks(begin, rows))
    together = jax.tree.map(lambda *a: np.concatenate(a), *found)
    return together, [len(chunk[1]) for chunk in found]


# --- Arrays ----------------------------------------------------------------------


def on_disk(kind, folder, **arrays):
    """The arrays in files of one kind, opened to be read."""
    if kind == "memmap":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return {k: np.load(folder / f"{k}.npy", mmap_mode="r") for k in arrays}
    if kind == "raw memmap":
        for name, array in arrays.items():
            array.tofile(folder / f"{name}.bin")
        return {
            k: np.memmap(folder / f"{k}.bin", a.dtype, "r+", shape=a.shape)
            for k, a in arrays.items()
        }
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        file = h5py.File(folder / "data.h5", "w")
        for name, array in arrays.items():
            file.create_dataset(
                name, data=array, chunks=(min(60, len(array)), *array.shape[1:])
            )
        return {k: file[k] for k in arrays}
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "data.zarr"), mode="w")
    for name, array in arrays.items():
        group.create_array(
            name, data=array, chunks=(min(60, len(array)), *array.shape[1:])
        )
    return {k: group[k] for k in arrays}


@pytest.mark.parametrize("kind", ["memmap", "raw memmap", "hdf5", "zarr"])
def test_arrays_on_disk(kind, tmp_path, expected):
    data = on_disk(
        kind, tmp_path, t=T, y=Y, wide=np.stack([T, W], 1), last=np.stack([T, W])
    )
    source = ArraySource(data["t"], data["y"])
    assert source.num_rows == M
    same(source, expected)
    same(
        ArraySource(data["t"], data["y"], 1.0),
        fit([(T, Y, np.ones(M))]).solution.params,
    )
    for x, rows_last in ((data["wide"], False), (data["last"], True)):
        source = ArraySource({"a": x, "t": data["t"]}, data["y"], rows_last=rows_last)
        (found, y), lengths = rows_of(source, 13, 60)
        assert lengths == [60, 60, 60, M - 13 - 180]
        np.testing.assert_array_equal(found["a"], np.stack([T, W], 1)[13:])
        np.testing.assert_array_equal(found["t"], T[13:])
        np.testing.assert_array_equal(y, Y[13:])
    if kind == "hdf5":
        data["t"].file.close()


def test_pages_of_a_memory_map_are_given_back_and_can_be_read_again(tmp_path):
    """More chunks than stay, of many pages each; also of maps that can be written."""
    size = 40 * 2048
    numbers = np.arange(size, dtype=np.float64)
    for mode in ("r", "r+", "c"):
        path = tmp_path / f"x{mode}.bin"
        numbers.tofile(path)
        x = np.memmap(path, np.float64, mode)
        if mode != "r":
            x[5] = -1.0
        source = ArraySource(x, x)
        for _ in range(2):
            (found, _), lengths = rows_of(source, 0, 2048)
            assert lengths == [2048] * 40
            np.testing.assert_array_equal(np.delete(found, 5), np.delete(numbers, 5))
            assert found[5] == (5 if mode == "r" else -1)


def test_a_sample_is_taken_evenly():
    source = ArraySource({"t": T}, Y, 0.1)
    x, y, sigma = source.sample(128)
    assert len(y) == len(x["t"]) == len(sigma) == 128
    assert (sigma == 0.1).all() and x["t"][0] == T[0] and x["t"][-1] == T[-1]
    assert (
        np.abs(np.quantile(x["t"], [0.25, 0.5, 0.75]) - [1.25, 2.5, 3.75]).max() < 0.1
    )
    assert len(source.sample(10**6)[1]) <= 64 * M


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((T[:0], Y[:0]), ValueError, "`y` is empty: there are no data"),
        ((T, Y[:-1]), ValueError, r"`x` has shape \(211,\), and `y` has 210 rows"),
        (({"a": T, "b": T[1:]}, Y), ValueError, r"`x\['b'\]` has shape \(210,\)"),
        ((np.stack([T, W]), Y), ValueError, r"`x` has shape \(2, 211\)"),
        (((), Y), ValueError, "`x` holds no arrays"),
        ((3.0, Y), ValueError, r"`x` has shape \(\)"),
        ((T, list(Y)), TypeError, "`y` must be an array with a shape, got list"),
        ((T, Y[:, None]), ValueError, r"`y` must have one dimension, got .*211, 1\)"),
        ((T, Y, Y[1:]), ValueError, "`sigma` has 210 rows, and `y` has 211"),
        ((T, Y, np.eye(M)), ValueError, r"`sigma` .* covariance .*jaxfit.curve_fit"),
        ((T, Y, [0.1] * M), TypeError, "`sigma` must be an array with a shape"),
    ],
)
def test_arrays_that_do_not_fit_together(arguments, error, text):
    with pytest.raises(error, match=text):
        ArraySource(*arguments)


# --- Tables ----------------------------------------------------------------------


def table(**columns):
    pa = pytest.importorskip("pyarrow")
    return pa.table({"t": T, "w": W, "y": Y, **columns})


def written(kind, folder):
    """A table in files, as something that TableSource takes."""
    whole = table()
    if kind == "table":
        return whole
    if kind == "feather":
        import pyarrow.feather

        pyarrow.feather.write_feather(whole, folder / "a.feather")
        return folder / "a.feather"
    if kind == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(whole, folder / "a.csv")
        return folder / "a.csv"
    import pyarrow.dataset
    import pyarrow.parquet as parquet

    if kind in ("parquet", "ParquetFile"):
        parquet.write_table(whole, folder / "a.parquet", row_group_size=40)
        if kind == "parquet":
            return str(folder / "a.parquet")
        return parquet.ParquetFile(folder / "a.parquet")
    paths = []
    for i in range(0, M, 50):
        paths.append(folder / f"part-{i:03d}.parquet")
        parquet.write_table(whole.slice(i, 50), paths[-1], row_group_size=20)
    if kind == "files":
        return [str(path) for path in paths]
    if kind == "dataset":
        return pyarrow.dataset.dataset(folder)
    return folder


TABLES = [
    "table",
    "parquet",
    "ParquetFile",
    "folder",
    "files",
    "dataset",
    "feather",
    "csv",
]


@pytest.mark.parametrize("kind", TABLES)
def test_tables(kind, tmp_path, expected):
    source = TableSource(written(kind, tmp_path), "t", "y")
    assert source.num_rows == M
    same(source, expected)
    (t, y), lengths = rows_of(source, 13, 30)
    np.testing.assert_array_equal(t, T[13:])
    np.testing.assert_array_equal(y, Y[13:])
    assert max(lengths) <= 30


def test_several_columns_are_a_tuple_or_a_dictionary(expected):
    whole = table(sigma=np.ones(M))
    (x, y, sigma), _ = rows_of(TableSource(whole, ["t", "w"], "y", "sigma"), 0, 50)
    assert isinstance(x, tuple) and (sigma == 1).all()
    np.testing.assert_array_equal(x, (T, W))
    np.testing.assert_array_equal(y, Y)
    named, _ = rows_of(TableSource(whole, {"a": "w", "b": "t"}, "y"), 0, 50)
    np.testing.assert_array_equal(named[0]["b"], T)
    tuples = fit(TableSource(whole, ("t", "w"), "y"), model=lambda x, p: decay(x[0], p))
    np.testing.assert_allclose(tuples.solution.params, expected, rtol=1e-12)


def test_nulls_are_nan():
    pa = pytest.importorskip("pyarrow")
    t, y = T.tolist(), Y.tolist()
    t[100], y[7] = None, None
    source = TableSource(pa.table({"t": t, "y": y}), "t", "y")
    with pytest.raises(ValueError, match=r"row 7 of the source .*'omit'"):
        fit(source)
    found = fit(source, nan_policy="omit")
    good = np.delete(np.arange(M), [7, 100])
    alone = fit([(T[good], Y[good])])
    np.testing.assert_allclose(found.solution.params, alone.solution.params, rtol=1e-10)
    assert found.info["rows_not_finite"] == 2 and found.info["rows_used"] == M - 2


def test_nulls_among_integers_that_come_late_are_nan():
    """A batch with nulls is of floats, and those before it of integers."""
    pa = pytest.importorskip("pyarrow")
    n = np.arange(M)
    late = [int(i) for i in n]
    late[150] = None
    y = pa.array(2.0 * n + 1)
    whole = pa.table({"n": pa.array(late, pa.int64()), "y": y})
    source = TableSource(whole, "n", "y")
    found = fit(source, np.ones(2), lambda x, p: p[0] * x + p[1], 50, nan_policy="omit")
    assert found.info["rows_not_finite"] == 1
    np.testing.assert_allclose(found.solution.params, [2, 1], rtol=1e-10)


def test_a_column_that_does_not_exist():
    with pytest.raises(ValueError, match="no column 'z': it has t, w, y"):
        TableSource(table(), ["t", "z"], "y")
    with pytest.raises(ValueError, match="no column 'error'"):
        TableSource(table(), "t", "y", "error")


def test_a_column_that_holds_no_numbers():
    source = TableSource(table(name=["a"] * M), "name", "y")
    with pytest.raises(ValueError, match="x of chunk 0 must hold real numbers, got ob"):
        fit(source)


@pytest.mark.parametrize("thing", [{"t": T}, 3.0, None, np.zeros(3)], ids=type)
def test_what_is_no_table(thing):
    with pytest.raises(TypeError, match="`table`"):
        TableSource(thing, "t", "y")


def test_tables_on_disk_need_pyarrow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.dataset", None)
    with pytest.raises(ImportError, match=r"need pyarrow: pip install .*stream"):
        TableSource("a.parquet", "t", "y")


# --- Lists and objects -----------------------------------------------------------


def test_lists_and_objects(expected):
    same(chunks(50), expected)
    same(tuple(chunks(7)), expected)
    same([list(chunk) for chunk in chunks(50)], expected)
    same([(T[:0], Y[:0]), *chunks(100), (T[:0], Y[:0])], expected)
    same([(jax.numpy.asarray(T), jax.numpy.asarray(Y))], expected)
    same([(T, Y, None)], expected)
    source = Watched(chunks(50))
    same(source, expected)
    assert source.finished > 2 and isinstance(source, jaxfit.Source)


@pytest.mark.parametrize(
    "make", [iter, lambda c: (chunk for chunk in c), lambda c: map(tuple, c)]
)
def test_what_can_be_read_only_once_is_refused(make):
    with pytest.raises(TypeError, match=r"only once, .*not a generator"):
        fit(make(chunks(50)))


def test_integers_and_float32(expected):
    """x is what the model is given; y and sigma are real numbers."""
    n = np.arange(M)
    line = 2 * n + 1

    def model(x, p):
        return p[0] * x + p[1]

    for x, y in ((n, line), (n.astype(np.int16), line.astype(np.float32))):
        found = fit([(x[:100], y[:100]), (x[100:], y[100:])], np.ones(2), model)
        np.testing.assert_allclose(found.solution.params, [2, 1], rtol=1e-12)
        assert found.solution.params.dtype == np.float64


@pytest.mark.parametrize("wide", [np.float64, np.float32])
def test_a_first_chunk_of_integers_does_not_cut_the_others(wide):
    """As a CSV file gives them: whole numbers first, then others."""
    n = np.arange(M)
    late = n + wide(0.5)
    source = [(n, 2.0 * n + 1), (late, 2.0 * late + 1)]
    found = fit(source, np.ones(2), lambda x, p: p[0] * x + p[1], 2 * M)
    np.testing.assert_allclose(found.solution.params, [2, 1], rtol=1e-9)


def test_a_first_chunk_of_float32_does_not_round_the_others():
    narrow, wide = T[:100].astype(np.float32), T[100:] + 1e5
    assert (wide.astype(np.float32) != wide).any()
    source = [(narrow, 2.0 * narrow.astype(float) + 1), (wide, 2 * wide + 1)]
    found = fit(source, np.ones(2), lambda x, p: p[0] * x + p[1])
    np.testing.assert_allclose(found.solution.params, [2, 1], rtol=1e-9)
    assert found.solution.cost < 1e-6
