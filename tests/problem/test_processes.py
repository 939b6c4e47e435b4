"""One fit by two processes, neither of which holds the data whole.

The processes are real ones on this machine, that speak over 127.0.0.1.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxfit


ROOT = Path(__file__).resolve().parents[2]
M = 1000
START = [1.0, 1.0, 0.2]


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def rows(begin, end):
    """x, y, sigma and mask of some rows: as if read from a file."""
    i = np.arange(begin, end)
    x = 5 * i / M
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + 0.1 * np.sin(17.0 * i)
    return x, y, 1 + 0.5 * np.cos(i), i % 7 != 3


def problem(x, y, sigma, mask):
    bounds = (0.0, [9.0, 9.0, 2.0])
    return jaxfit.curve_problem(
        decay, x, y, START, sigma=sigma, mask=mask, bounds=bounds, loss="soft_l1"
    )


PROCESS = """
import json, sys
import jax
import numpy as np

address, rank = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, num_processes=2, process_id=rank)

import jaxfit
import test_processes as shared

mesh = jax.make_mesh((jax.device_count(),), ("rows",))
spread = jax.NamedSharding(mesh, jax.P("rows"))
share = shared.M // 2
own = shared.rows(rank * share, (rank + 1) * share)
whole = [jax.make_array_from_process_local_data(spread, a) for a in own]
assert all(a.shape == (shared.M,) and not a.is_fully_addressable for a in whole)
problem = shared.problem(*whole)

plain = jaxfit.solve(problem)
named = jax.jit(jaxfit.solve)(
    problem, jaxfit.TRF(mesh=mesh, linear_solver="gram", chunk_size=100)
)
print(json.dumps([
    [np.asarray(s.params).tolist(), float(s.cost), int(s.num_rows), bool(s.success),
     np.asarray(s.covariance()).tolist()]
    for s in (plain, named)
]))
"""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def answers(count=2, seconds=120):
    """What each process prints last."""
    address = f"127.0.0.1:{free_port()}"
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests" / "shared"), str(ROOT / "tests" / "problem")]
    )
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # the eight devices of conftest.py
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        printed = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for process, (_, err) in zip(processes, printed, strict=True):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in printed]


def test_two_processes_give_the_answer_of_one():
    expected = jaxfit.solve(problem(*rows(0, M)))
    for answer in answers():
        for params, cost, num_rows, success, covariance in answer:
            np.testing.assert_allclose(params, expected.params, rtol=1e-11)
            np.testing.assert_allclose(cost, expected.cost, rtol=1e-12)
            np.testing.assert_allclose(covariance, expected.covariance(), rtol=1e-8)
            assert (num_rows, success) == (int(expected.num_rows), True)
