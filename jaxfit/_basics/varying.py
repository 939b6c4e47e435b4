"""Types that tell along which axes of a `jax.shard_map` a value varies.

Inside `shard_map` an array's type tells along which axes of the mesh it differs from
device to device, and a loop wants the same of what goes in and what comes out. A fit
mixes the user's data with constants of its own: where any of its data vary, all do.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import get_abstract_mesh
from jaxtyping import PyTree


def axes_of(tree: PyTree) -> frozenset[str]:
    """The axes of the mesh along which any of the arrays varies."""
    if not get_abstract_mesh().manual_axes:
        return frozenset()
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return frozenset().union(*map(_axes, leaves))


def varying(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """The same arrays, on the mesh, said to vary along all of these axes."""
    mesh = get_abstract_mesh()
    if not mesh.manual_axes:
        return tree

    def cast(leaf: Any) -> Any:
        more = tuple(sorted(axes - _axes(leaf)))
        if more:
            return jax.lax.pcast(leaf, more, to="varying")
        if jax.typeof(leaf).sharding.mesh != mesh:  # a constant from outside
            return jnp.where(jnp.ones(jnp.shape(leaf), bool), leaf, leaf)
        return leaf

    return jax.tree.map(cast, tree)


def alike(tree: PyTree, x: jax.Array) -> PyTree:
    """Constants that vary as x does, in type."""
    return varying(tree, axes_of(x))


def _axes(leaf: Any) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying
