"""Steps within bounds: where a proposal may end."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import TRF
from jaxfit._trf.bounds import Bounds
from jaxfit._trf.triangle import Triangle


M, N = 8, 3
SOLVER = TRF()


@jax.jit
def proposal(a, b, x, box):
    """The first trial point of min |a x - b|^2, and the share of a way it may go."""
    r = a @ x - b
    lin = Triangle.of_rows(0.5 * r * r, r, a.T).total()
    state = SOLVER.init(x, box, lin.summary(), M)
    state, model = SOLVER.prepare(state, lin, box)
    return SOLVER.propose(state, model, box)[0], model.theta


def test_a_step_never_goes_all_the_way_to_a_bound():
    """On the bound a parameter would be frozen: some of its distance is left."""
    rng = np.random.default_rng(5)
    least = 1.0
    for _ in range(300):
        a = rng.normal(size=(M, N)) * 10.0 ** rng.uniform(-1, 1, N)
        low = np.array([0.0, -1.0, -np.inf])
        high = np.array([np.inf, 2.0, 3.0])
        x = np.array([0.0, -1.0, 0.0]) + rng.uniform(0.01, 2.9, N)
        box = Bounds(jnp.array(low), jnp.array(high))
        trial, theta = proposal(a, 5 * rng.normal(size=M), jnp.array(x), box)
        assert 0.995 <= theta < 1
        before, after = (np.minimum(p - low, high - p) for p in (x, np.array(trial)))
        least = min(least, (after / before).min())
    assert 1e-6 < least < 0.01  # some of them were cut short of a bound
