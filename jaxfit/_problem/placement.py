"""Where the rows of data lie: which axes of which mesh of devices.

The user names a mesh, or puts arrays on one. Arrays on axes of type Explicit tell by
their types how they lie; those on Auto axes tell nothing but that there is a mesh. A
fit runs on Auto axes only: `on_auto_axes` makes it so, and says what it saw before.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    auto_axes,
    get_abstract_mesh,
    use_abstract_mesh,
)

from .evaluation import Evaluation
from .problem import Problem


class Split(NamedTuple):
    """Rows in equal shares along some axes of a mesh, the first axis slowest."""

    mesh: Mesh | AbstractMesh
    axes: tuple[str, ...]

    @property
    def parts(self) -> int:
        """The number of shares."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    def lay(self, tree: Any, *axes: Any) -> Any:
        """The arrays along `axes` of the mesh; all of them on each device if none."""
        where = NamedSharding(self.mesh, PartitionSpec(*axes))
        return jax.lax.with_sharding_constraint(tree, where)

    def mapped(self, part: Callable, are_rows: tuple[bool, ...]) -> Callable:
        """`part(leaves, mask, arrays, x)` on each device's share of leaves and mask."""
        own, same = PartitionSpec(self.axes), PartitionSpec()
        # A model's own loops may start from constants, which are the same on all
        # devices though what follows is not: hence no check of what varies.
        return jax.shard_map(
            part,
            mesh=self.mesh,
            in_specs=(
                [own if is_row else same for is_row in are_rows],
                own,
                same,
                same,
            ),
            out_specs=own,
            check_vma=False,
        )


def on_auto_axes(fit: Callable) -> Callable:
    """`fit(problem, solver, *arrays, axes)` for arrays on axes of any type.

    Explicit axes, of the arrays or of a mesh that is set, become Auto for `fit`, which
    is told along which of them the rows lie (None: along none); what it returns is on
    every device. The arithmetic of a fit follows no sharding in types.
    """

    @functools.wraps(fit)
    def run(problem: Problem, solver: Any, *arrays: Any):
        mesh = _explicit_mesh((problem, arrays))
        axes = None if mesh is None else _axes_of_rows(problem.args)
        return _as_auto(mesh, functools.partial(fit, axes=axes))(
            problem, solver, *arrays
        )

    return run


def all_on_auto_axes(fn: Callable) -> Callable:
    """The same for any `fn(*args)`, which is told nothing of where rows lie."""

    @functools.wraps(fn)
    def run(*args: Any):
        return _as_auto(_explicit_mesh(args), fn)(*args)

    return run


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    """The mesh with Explicit axes that is set or that an array lies on, or None."""
    meshes = [get_abstract_mesh(), *map(_mesh_of, jax.tree.leaves(tree))]
    return next((mesh for mesh in meshes if _has(mesh, AxisType.Explicit)), None)


def _as_auto(mesh: AbstractMesh | None, fn: Callable) -> Callable:
    if mesh is None:
        return fn

    def run(*args: Any):
        with use_abstract_mesh(mesh):
            return auto_axes(fn, out_sharding=PartitionSpec())(*args)

    return run


def _mesh_of(leaf: Any) -> AbstractMesh:
    return jax.typeof(leaf).sharding.mesh


def _has(mesh: AbstractMesh, kind: AxisType) -> bool:
    return any(
        size > 1 and axis_type == kind
        for size, axis_type in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    )


def is_on_auto_axes(tree: Any) -> bool:
    """Whether arrays are on a mesh of several devices, in a way they do not tell."""
    return any(_has(_mesh_of(leaf), AxisType.Auto) for leaf in jax.tree.leaves(tree))


def _axes_of_rows(tree: Any) -> tuple[str, ...] | None:
    """The axes of a mesh that the first axes of arrays lie along, if they agree."""
    found = set()
    for leaf in jax.tree.leaves(tree):
        spec = jax.typeof(leaf).sharding.spec
        if len(spec) and spec[0] is not None:
            found.add(spec[0] if isinstance(spec[0], tuple) else (spec[0],))
    return found.pop() if len(found) == 1 else None


def split_of(how: Evaluation, axes: tuple[str, ...] | None) -> Split | None:
    """How to spread rows: over the solver's mesh, or along `axes` of the one at hand.

    **Raises:** `ValueError` where the one at hand is another than the solver's.
    """
    mesh, at_hand = how.mesh, get_abstract_mesh()
    if mesh is None:
        return None if axes is None else Split(at_hand, axes)
    if at_hand.empty:
        return Split(Mesh(mesh.devices, mesh.axis_names), mesh.axis_names)
    if at_hand.shape_tuple != mesh.shape_tuple:
        raise ValueError(
            f"`mesh` has axes {dict(mesh.shape)}, but the mesh in use, or that of the "
            f"data, has {dict(at_hand.shape)}: give the same one."
        )
    return Split(at_hand, mesh.axis_names)
