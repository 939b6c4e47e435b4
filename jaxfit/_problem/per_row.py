"""Which arrays among data have a row for each residual."""

from typing import Any

import equinox as eqx
import jax


class Shared(eqx.Module):
    """What all rows share. Its arrays are no rows, even where they are as long."""

    value: Any


def are_rows(data: Any, size: int) -> Any:
    """For each array of the data whether it has `size` rows along its first axis."""

    def one(node):
        if isinstance(node, Shared):
            return jax.tree.map(lambda leaf: False, node)
        return node.ndim > 0 and node.shape[0] == size

    return jax.tree.map(one, data, is_leaf=lambda node: isinstance(node, Shared))
