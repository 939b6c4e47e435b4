"""A process that was forked after a fit says so, where it would wait for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="this system does not fork"
)

SHARED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")  # Python's and JAX's own, that forking is dangerous
import jax.numpy as jnp
import numpy as np
import jaxfit

t = np.linspace(0, 5, 40)
y = 2.5 * np.exp(-1.3 * t) + 0.5

def model(t, a, b, c):
    return a * jnp.exp(-b * t) + c

def kernel(t, p):
    return model(t, *p)

def fit():
    return jaxfit.curve_fit(model, t, y).popt

def in_child(act):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # so that a child that hangs ends
        try:
            said = str(act())
        except BaseException as err:
            said = f"{type(err).__name__}: {err}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as file:
        print(file.read(), flush=True)
"""

AFTER = """
problem = jaxfit.curve_problem(kernel, t, y, jnp.ones(3))
fit()
for act in (
    fit,
    lambda: jaxfit.curve_fit(lambda t, a: a * t, t, y),
    lambda: jaxfit.CurveFit(model)(t, y),
    lambda: jaxfit.least_squares(lambda p: model(t, *p) - y, np.ones(3)),
    lambda: jaxfit.solve(problem),
    lambda: jaxfit.curve_problem(kernel, t, y, jnp.ones(3)),
    lambda: jaxfit.Problem(lambda p, args: p, [1.0]),
    lambda: jaxfit.solve_batch([problem, problem]),
    lambda: jaxfit.curve_fit_batch(model, t, np.stack([y, y]), [1.0, 1.0, 1.0]),
    lambda: jaxfit.fit_stream(kernel, [(t, y)], [1.0, 1.0, 1.0]),
    lambda: jaxfit.fit_large_dataset(model, t, y),
):
    in_child(act)
print(fit().round(3))
"""

BEFORE = """
in_child(lambda: fit().round(3))
print(fit().round(3))
"""

SPAWNED = """
import multiprocessing

if __name__ == "__main__":
    fit()
    for how in ("fork", "spawn"):
        context = multiprocessing.get_context(how)
        with context.Pool(1) as pool:
            result = pool.apply_async(fit)
            try:
                print(result.get(120).round(3), flush=True)
            except Exception as err:
                print(f"{type(err).__name__}: {err}", flush=True)
"""


def lines_of(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SHARED + script)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_door_refuses_in_a_child(tmp_path):
    *said, parent = lines_of(AFTER, tmp_path)
    assert len(said) == 11
    for line in said:
        assert line.startswith("RuntimeError: this process (")
        assert "was forked from one that had fitted before" in line
        assert "get_context('spawn') or 'forkserver'" in line
    assert parent == "[2.5 1.3 0.5]"


def test_a_fork_before_the_first_fit_is_as_good_as_any_process(tmp_path):
    assert lines_of(BEFORE, tmp_path) == ["[2.5 1.3 0.5]"] * 2


def test_processes_of_multiprocessing(tmp_path):
    forked, spawned = lines_of(SPAWNED, tmp_path)
    assert forked.startswith("RuntimeError: this process (")
    assert spawned == "[2.5 1.3 0.5]"
