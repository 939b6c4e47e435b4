"""The fit that the scripts on batches share: a spot of light on 5x5 pixels.

Gpufit's own case: a symmetric 2-D Gaussian with five parameters, amplitude 500, width 1
and offset 10, its centre within 0.2 of the middle pixel, normal noise of 5. A start is
the truth, each parameter times a number between 0.8 and 1.2.

The peers are imported where they are called: scripts without them share this fit too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxfit
from jaxfit import curve_fit_batch  # before any clock starts
from tools.measure import Timings


TRUTH = (500.0, 2.0, 2.0, 1.0, 10.0)
BOUNDS = ([0, -1, -1, 0.1, -100], [2000, 5, 5, 10, 500])
PIXELS = np.stack(np.divmod(np.arange(25), 5)).astype(float)
NOISE = 5.0
ON_GPU = jax.default_backend() == "gpu"
# Fits of the peers that take all of theirs at once, a multiple of each block size.
BLOCKS = (4_096, 32_768, 131_072) if ON_GPU else (64, 256, 1_024, 4_096)


def model(x, a, cx, cy, width, offset):
    """The model for `jaxfit.curve_fit_batch`."""
    square = (x[0] - cx) ** 2 + (x[1] - cy) ** 2
    return a * jnp.exp(-square / (2 * width**2)) + offset


def numpy_model(x, a, cx, cy, width, offset):
    """The model as a user of SciPy writes it."""
    square = (x[0] - cx) ** 2 + (x[1] - cy) ** 2
    return a * np.exp(-square / (2 * width**2)) + offset


def data(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 25) and starts (count, 5)."""
    rng = np.random.default_rng(seed)
    truth = np.tile(TRUTH, (count, 1))
    truth[:, 1:3] += rng.uniform(-0.2, 0.2, (count, 2))
    images = rng.standard_normal((count, 25))
    images *= NOISE
    for i in range(0, count, 100_000):  # in pieces: no more memory than the result's
        some = truth[i : i + 100_000].T[..., None]
        images[i : i + 100_000] += numpy_model(PIXELS[:, None], *some)
    truth *= rng.uniform(0.8, 1.2, truth.shape)
    return images, truth


def batch(images: np.ndarray, starts: np.ndarray, bounded: bool = True, **more: Any):
    """`jaxfit.curve_fit_batch` of the images."""
    if bounded:
        more["bounds"] = BOUNDS
    return curve_fit_batch(model, PIXELS, images, starts, **more)


def scipy_loop(images: np.ndarray, starts: np.ndarray, **more: Any) -> np.ndarray:
    """The parameters by `scipy.optimize.curve_fit`, one fit after the other."""
    import scipy.optimize

    fit = scipy.optimize.curve_fit
    fits = zip(images, starts, strict=True)
    return np.array([fit(numpy_model, PIXELS, y, p0=p0, **more)[0] for y, p0 in fits])


def problem(image: Array, start: Array, bounded: bool = True) -> jaxfit.Problem:
    """The problem for `jaxfit.solve`, to be mapped over images and starts."""
    return jaxfit.curve_problem(
        lambda x, params: model(x, *params),
        PIXELS,
        image,
        start,
        bounds=tuple(map(jnp.array, BOUNDS)) if bounded else None,
    )


def optimistix_fit(tolerance: float) -> Callable[[Array, Array], Array]:
    """The parameters of one fit by optimistix's Levenberg-Marquardt."""
    import optimistix

    solver = optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance)

    def residual(params, image):
        return model(jnp.asarray(PIXELS), *params) - image

    def fit(image, start):
        return optimistix.least_squares(
            residual, solver, start, image, throw=False
        ).value

    return fit


def in_blocks(fit: Callable, block: int) -> Callable[[Array, Array], Any]:
    """`fit` of images and starts: `block` of them at a time, by lax.map."""

    def every(images, starts):
        parts = [a.reshape(-1, block, a.shape[-1]) for a in (images, starts)]
        found = jax.lax.map(lambda part: fit(*part), tuple(parts))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)

    return jax.jit(every)


def rate(times: Timings, name: str, fits: dict[str, int]) -> float:
    """Fits a second of a peer whose call does so many fits."""
    return fits[name] / times.median(name)


def speedup(times: Timings, name: str, over: str, fits: dict[str, int]) -> float:
    """How many times as many fits a second as another."""
    return times.ratio(over, name) * fits[name] / fits[over]


def off(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The relative differences of amplitude, centre and width, the largest of a fit.

    The sign of the width is nobody's: it is a square that counts.
    """
    found, exact = np.array(found[:, :4]), np.array(exact[: len(found), :4])
    found[:, 3], exact[:, 3] = np.abs(found[:, 3]), np.abs(exact[:, 3])
    return np.max(np.abs(found / exact - 1), axis=1)


def off_in_errors(found: np.ndarray, exact: np.ndarray, perr: np.ndarray) -> np.ndarray:
    """The differences of all parameters in standard errors, the largest of a fit."""
    found, exact = np.array(found), np.array(exact[: len(found)])
    found[:, 3], exact[:, 3] = np.abs(found[:, 3]), np.abs(exact[:, 3])
    return np.max(np.abs(found - exact) / perr[: len(found)], axis=1)


def device() -> str:
    """A note on where it was measured."""
    one = jax.devices()[0]
    return f"On {jax.device_count()} device(s) of JAX: {one.device_kind}."
