"""Programs kept on disk: found by the next process, by several at once, when asked for.

What is switched on is JAX's cache, a setting of the whole process, so most of this
happens in fresh ones. They print JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxfit


ROOT = Path(__file__).resolve().parents[2]

BEGIN = """
import json, os, sys, warnings
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
import jaxfit

def setting():
    return jax.config.jax_compilation_cache_dir

def say(*what):
    print(json.dumps(what, default=str))
"""

# Of each door: how many programs JAX asked its cache for, found there, and wrote; what
# was fitted.
FITS = """
folder, *doors = sys.argv[1:]
jaxfit.cache_programs(folder)
counts = {}

def count(event, **_):
    counts[event.split("/")[-1]] = counts.get(event.split("/")[-1], 0) + 1

jax.monitoring.register_event_listener(count)

t = np.linspace(0, 5, 40)
y = 2.5 * np.exp(-1.3 * t) + 0.5
ones = np.ones(3)

def model(t, a, b, c):
    return a * jnp.exp(-b * t) + c

def hosted(t, a, b, c):
    return a * np.exp(-b * t) + c

def kernel(t, p):
    return model(t, *p)

def residual(p, t):
    return model(t, *p) - y

def large():
    return jaxfit.fit_large_dataset(model, t, y, ones, strategy="streamed").popt

def errors():
    noisy = y + 0.01 * np.cos(9 * t)
    result = jaxfit.curve_fit(model, t, noisy)
    half = result.propagate(lambda a, b, c: jnp.log(2) / b)
    profile = result.profile("b", levels=0.95)
    return [*profile.interval("b", 0.95), float(half.value)]

ALL = {
    "curve_fit": lambda: jaxfit.curve_fit(model, t, y).popt,
    "bounded": lambda: jaxfit.curve_fit(model, t, y, bounds=(0, 5)).popt,
    "closure": lambda: jaxfit.curve_fit(lambda t, a: a * jnp.exp(-t), t, y).popt,
    "host": lambda: jaxfit.CurveFit(hosted, host="allow")(t, y).popt,
    "solve": lambda: jaxfit.solve(jaxfit.curve_problem(kernel, t, y, ones)).params,
    "least_squares": lambda: jaxfit.least_squares(residual, ones, args=(t,)).x,
    "curve_fit_batch": lambda: jaxfit.curve_fit_batch(model, t, [y, y], ones).popt,
    "fit_large_dataset": large,
    "errors": errors,
}
for door in doors:
    counts.clear()
    found = np.asarray(ALL[door]())
    names = "compile_requests_use_cache", "cache_hits", "cache_misses"
    say(door, *(counts.get(name, 0) for name in names), found.tolist())
"""


def started(code: str, *args: str, **environment: str) -> subprocess.Popen:
    """A fresh process of which nothing outside says where programs are kept."""
    without = {"JAXFIT_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}
    env = {k: v for k, v in os.environ.items() if k not in without}
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, *args],
        cwd=ROOT,
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen) -> list:
    """What it printed, a list for each line."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def kept(folder: Path) -> set[str]:
    """The names of the files below a folder."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


# --- Found again -----------------------------------------------------------------


def check_generations(folder: Path, doors: list[str]) -> None:
    """Two processes begin with an empty folder; the next compiles nothing."""
    processes = [started(FITS, str(folder), *doors) for _ in range(2)]
    first = [said(process) for process in processes]
    files = kept(folder)
    second = said(started(FITS, str(folder), *doors))
    assert kept(folder) == files
    for told in zip(*first, second, strict=True):
        door, asked, found, written, value = told[-1]
        assert asked > 0, door
        # JAX 0.10 knows a function of Python by its address, and keeps no such program.
        assert found == asked or (found == 0 and door == "host"), door
        assert written == 0, door
        for _, as_many, _, _, same in told[:-1]:
            assert (as_many, same) == (asked, value), door
    assert sum(written for _, _, _, written, _ in first[0]) > 0


def test_processes_that_begin_together_spare_the_next_one_its_compiling(tmp_path):
    check_generations(tmp_path / "new" / "folder", ["curve_fit", "host"])


@pytest.mark.slow
def test_every_door_finds_its_programs(tmp_path):
    doors = [
        "curve_fit", "bounded", "closure", "host", "solve", "least_squares",
        "curve_fit_batch", "fit_large_dataset", "errors",
    ]  # fmt: skip
    check_generations(tmp_path, doors)


def test_what_was_written_in_part_is_compiled_again(tmp_path):
    """As after a full disk, or while another process writes."""
    code = """
jaxfit.cache_programs(sys.argv[1])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    say(float(jax.jit(lambda x: jnp.sin(x) + 3)(0.0)), len(told) > 0)
"""
    assert said(started(code, str(tmp_path))) == [[3.0, False]]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert said(started(code, str(tmp_path))) == [[3.0, True]]


def test_a_folder_can_be_chosen_late_and_changed(tmp_path):
    code = """
jax.jit(lambda x: x + 1)(1.0)  # JAX has looked for a cache, and found none
folders = [Path(folder) for folder in sys.argv[1:]]
for i, folder in enumerate([*folders, folders[0]]):
    say(jaxfit.cache_programs(folder))
    jax.jit(lambda x: x * (i + 2))(1.0)
    say([len(list(f.iterdir())) if f.exists() else 0 for f in folders])
"""
    one, other = tmp_path / "one", tmp_path / "other"
    told = said(started(code, str(one), str(other)))
    assert [line[0] for line in told[::2]] == [str(one), str(other), str(one)]
    (a, none), (b, c), (d, e) = [line[0] for line in told[1::2]]
    assert a > 0 and none == 0  # what was compiled before is not there
    assert b == a and c > 0
    assert d > a and e == c


# --- When and where --------------------------------------------------------------

# Making a problem is the beginning of a fit.
ASK = """
before = setting()
jaxfit.curve_fit, jaxfit.solve, jaxfit.cache_programs
imported = setting()
jaxfit.Problem(lambda p, args: p, [1.0])
first = setting()
os.environ["JAXFIT_CACHE"] = "/nowhere"  # too late
jaxfit.Problem(lambda p, args: p, [1.0])
say(before, imported, first, setting())
"""


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_kept_unless_asked_for(tmp_path, value):
    asked = {} if value is None else {"JAXFIT_CACHE": value}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    if value is None:
        assert said(started(ASK.replace("os.environ", "#"), **home)) == [[None] * 4]
    else:
        assert said(started(ASK, **asked, **home))[0][:3] == [None] * 3
    assert kept(tmp_path) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="where users' caches are")
def test_the_environment_is_read_at_the_first_fit(tmp_path):
    cases = [
        ({"JAXFIT_CACHE": str(tmp_path / "mine")}, tmp_path / "mine"),
        (
            {"JAXFIT_CACHE": "1", "XDG_CACHE_HOME": str(tmp_path / "caches")},
            tmp_path / "caches" / "jaxfit",
        ),
        (
            {"JAXFIT_CACHE": "1", "HOME": str(tmp_path)},
            tmp_path / ".cache" / "jaxfit",
        ),
        ({"JAXFIT_CACHE": "~/here", "HOME": str(tmp_path)}, tmp_path / "here"),
    ]
    processes = [started(ASK, **environment) for environment, _ in cases]
    for process, (_, folder) in zip(processes, cases, strict=True):
        assert said(process) == [[None, None, str(folder), str(folder)]]
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_called_goes_before_the_environment(tmp_path):
    code = """
jaxfit.cache_programs(sys.argv[1])
jaxfit.Problem(lambda p, args: p, [1.0])
say(setting())
"""
    process = started(code, str(tmp_path / "a"), JAXFIT_CACHE=str(tmp_path / "b"))
    assert said(process) == [[str(tmp_path / "a")]]
    assert not (tmp_path / "b").exists()


# --- JAX's own -------------------------------------------------------------------


def test_a_cache_of_jax_is_left_as_it_is(tmp_path):
    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = [jax.config.values[name] for name in names]
    with pytest.warns(UserWarning, match="`folder` has no effect") as told:
        assert jaxfit.cache_programs(tmp_path / "new") == Path(before[0])
    assert f"set to {before[0]} (jax_compilation_cache_dir)" in str(told[0].message)
    assert [jax.config.values[name] for name in names] == before
    assert not (tmp_path / "new").exists()


def test_a_cache_that_is_switched_off_stays_off(tmp_path, without_kept_programs):
    with pytest.warns(UserWarning, match=r"switched off \(jax_enable_compilation_ca"):
        assert jaxfit.cache_programs(tmp_path / "new") is None
    assert not (tmp_path / "new").exists()


def test_the_environment_leaves_jaxs_as_it_is_and_says_so_once(tmp_path):
    code = """
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        jaxfit.Problem(lambda p, args: p, [1.0])
    jaxfit.cache_programs()
say(setting(), [str(w.message) for w in told], told[-1].filename)
"""
    theirs = str(tmp_path / "theirs")
    process = started(code, JAX_COMPILATION_CACHE_DIR=theirs, JAXFIT_CACHE="1")
    ((folder, (of_environment, of_call), file),) = said(process)
    assert folder == theirs
    assert of_environment.startswith(f"JAX's compilation cache is set to {theirs}")
    assert of_environment.endswith("left so: `JAXFIT_CACHE` has no effect.")
    assert of_call.endswith("left so: `folder` has no effect.")
    assert file == "<string>"  # where it was called


# --- Bad folders -----------------------------------------------------------------


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    code = """
def refused(act):
    try:
        act()
    except Exception as err:
        return [type(err).__name__, str(err)]

for folder in (5, "", sys.argv[1]):
    say(refused(lambda: jaxfit.cache_programs(folder)))
for _ in range(2):
    say(refused(lambda: jaxfit.Problem(lambda p, args: p, [1.0])))
say(setting())
"""
    file = tmp_path / "file"
    file.write_text("no folder")
    below = str(file / "below")
    *told, (unset,) = said(started(code, str(file), JAXFIT_CACHE=below))
    number, empty, called, first, second = [line[0] for line in told]
    assert number == ["TypeError", "`folder` must be a path or None, got 5."]
    assert empty == ["ValueError", "`folder` must be a path or None, got an empty one."]
    assert called[0] == first[0] == "OSError"
    assert called[1].startswith(f"`folder`: programs cannot be kept in {file}, which")
    assert first[1].startswith(f"`JAXFIT_CACHE`: programs cannot be kept in {below}")
    assert second == first
    assert unset is None
