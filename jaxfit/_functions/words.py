"""Arrays as 32-bit words, the form in which they pass a callback to the host.

JAX converts what goes to a callback and what comes back by the precision of the thread
that it runs in, not of the caller's. Words of 32 bits pass untouched.
"""

import jax
import jax.numpy as jnp
import numpy as np


def to_words(a: jax.Array) -> jax.Array:
    """The bits of an array as a vector of 32-bit words."""
    if jnp.iscomplexobj(a):
        a = jnp.stack([a.real, a.imag], axis=-1)
    if a.dtype.itemsize < 4:
        a = a.astype(jnp.int32)
    return jnp.ravel(jax.lax.bitcast_convert_type(a, jnp.uint32))


def from_words(words: np.ndarray, forms: list) -> list[np.ndarray]:
    """The arrays, of the given shapes and dtypes, on the host."""
    arrays, start = [], 0
    for shape, dtype in forms:
        wire = dtype if dtype.itemsize >= 4 else np.dtype(np.int32)
        end = start + int(np.prod(shape)) * wire.itemsize // 4
        part = words[start:end].view(wire)
        arrays.append(part.astype(dtype).reshape(shape))  # a copy, to be written to
        start = end
    return arrays


def numbers_of(words: jax.Array, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """The array, on the device, of a float or complex dtype."""
    real = np.finfo(dtype).dtype
    if real.itemsize == 8:
        words = words.reshape(-1, 2)
    numbers = jax.lax.bitcast_convert_type(words, real)
    if dtype.kind == "c":
        pairs = numbers.reshape(-1, 2)
        numbers = jax.lax.complex(pairs[:, 0], pairs[:, 1])
    return numbers.reshape(shape)
