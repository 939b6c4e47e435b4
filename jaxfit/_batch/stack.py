"""Problems of equal structure as one stack, and columns of it as lanes.

A leaf of the stack either has the problems along its first axis or is shared by all. A
lane works on one problem; lanes lie along the last axis, so that arithmetic on entries
of small arrays is arithmetic on long vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .._problem.problem import Problem, check_problem
from .._programs.abstract import abstract
from .._trf.bounds import Bounds


class Stack(eqx.Module):
    """`size` problems; `batched` tells which of the leaves have the problems' axis."""

    problems: Problem
    batched: tuple[bool, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    @staticmethod
    def of(problems: Any, in_axes: Any = 0) -> "Stack":
        """From stacked problems and `in_axes` as of `jax.vmap`, or a list of problems.

        **Raises:** `ValueError` naming the leaf that does not fit the others.
        """
        if isinstance(problems, list | tuple):
            if in_axes != 0:
                raise ValueError(
                    "`in_axes` is for stacked problems: of a list, what is the same "
                    "object in all of them is shared."
                )
            return _of_list(problems)
        leaves = jax.tree_util.tree_leaves_with_path(problems)
        axes = _flat_axes(in_axes, problems)
        batched = tuple(axis == 0 for axis in axes)
        size, first = None, ""
        for (path, leaf), is_batched in zip(leaves, batched, strict=True):
            if not is_batched:
                continue
            name = f"`problems{jax.tree_util.keystr(path)}`"
            if leaf.ndim == 0:
                raise ValueError(
                    f"{name} is one number, without an axis of problems: stack it, or "
                    "give `in_axes` with None for it where all problems share it."
                )
            if size is None:
                size, first = leaf.shape[0], name
            elif leaf.shape[0] != size:
                raise ValueError(
                    f"{name} holds {leaf.shape[0]} problems but {first} holds {size}: "
                    "give `in_axes` with None for what all problems share."
                )
        if size is None:
            raise ValueError("`in_axes` leaves nothing that differs among `problems`.")
        if size == 0:
            raise ValueError("`problems` holds no problem: there is nothing to fit.")
        return Stack(problems, batched, size)

    @staticmethod
    def by(make: Callable[[Any], Problem], args: Any, batched: list[bool]) -> "Stack":
        """The problems that `make` makes of `args`, leaf by leaf stacked or shared.

        What depends on no stacked leaf is made once and shared.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = [
            jax.ShapeDtypeStruct(a.shape[1:] if own else a.shape, a.dtype)
            for a, own in zip(leaves, batched, strict=True)
        ]
        one = jax.tree.unflatten(structure, shapes)
        closed, out = abstract(make, one)
        own = _dependent(closed.jaxpr, batched)

        def axes(structure, flags):
            return jax.tree.unflatten(structure, [0 if f else None for f in flags])

        mapped = jax.vmap(
            make,
            in_axes=(axes(structure, batched),),
            out_axes=axes(jax.tree.structure(out), own),
        )
        size = next(len(a) for a, f in zip(leaves, batched, strict=True) if f)
        return Stack(mapped(args), tuple(own), size)

    @property
    def num_params(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.one.params))

    @property
    def leaves(self) -> list:
        return jax.tree.leaves(self.problems)

    def _like(self, leaves: Sequence[Any]) -> Problem:
        return jax.tree.unflatten(jax.tree.structure(self.problems), leaves)

    def mapped(self, axis: int) -> Problem:
        """The problems' axis of each leaf as `jax.vmap` wants it: `axis` or None."""
        return self._like([axis if batched else None for batched in self.batched])

    @property
    def one(self) -> Problem:
        """The shapes of a single problem."""
        shapes = [
            jax.ShapeDtypeStruct(a.shape[1:] if batched else a.shape, a.dtype)
            for a, batched in zip(self.leaves, self.batched, strict=True)
        ]
        return self._like(shapes)

    def take(self, which: Int[Array, " k"]) -> Problem:
        """Some of the problems as lanes; beyond the last one, the last one again."""
        lanes = [
            jnp.moveaxis(a.at[which].get(mode="clip"), 0, -1) if batched else a
            for a, batched in zip(self.leaves, self.batched, strict=True)
        ]
        return self._like(lanes)

    def put(self, lanes: Problem, at: Int[Array, " k"], new: Problem) -> Problem:
        """`lanes` with those `at` some positions replaced."""
        leaves = [
            a.at[..., at].set(b, mode="drop") if batched else a
            for a, b, batched in zip(
                jax.tree.leaves(lanes), jax.tree.leaves(new), self.batched, strict=True
            )
        ]
        return self._like(leaves)

    def starts(self, lanes: Problem, count: int) -> Float[Array, "n l"]:
        """The starting points of so many lanes, as columns."""
        flat = jax.vmap(
            lambda problem: ravel_pytree(problem.params)[0],
            in_axes=(self.mapped(-1),),
            out_axes=-1,
            axis_size=count,
        )
        return flat(lanes)

    @staticmethod
    def bounds(lanes: Problem) -> Bounds | None:
        """The bounds of lanes as columns, one column where all share them."""
        bounds = lanes.bounds
        if bounds is None:
            return None
        return jax.tree.map(lambda a: a if a.ndim == 2 else a[:, None], bounds)


def _dependent(jaxpr: Jaxpr, inputs: list[bool]) -> list[bool]:
    """Which outputs depend on the inputs marked."""
    marked = {var for var, mark in zip(jaxpr.invars, inputs, strict=True) if mark}
    for eqn in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in marked for v in eqn.invars):
            marked.update(eqn.outvars)
    return [not isinstance(v, Literal) and v in marked for v in jaxpr.outvars]


def _flat_axes(in_axes: Any, problems: Problem) -> list[int | None]:
    """`in_axes`, a prefix of `problems` as in `jax.vmap`, leaf by leaf."""

    def is_none(leaf):
        return leaf is None

    try:
        full = jax.tree.map(
            lambda axis, part: jax.tree.map(lambda _: _Axis(axis), part),
            in_axes,
            problems,
            is_leaf=is_none,
        )
    except ValueError as err:
        raise ValueError(
            "`in_axes` must be 0 or a prefix of the PyTree `problems` with 0 and None, "
            f"as of jax.vmap: {err}"
        ) from err
    axes = [leaf.axis for leaf in jax.tree.leaves(full)]
    for axis in axes:
        if axis not in (0, None) or isinstance(axis, bool):
            raise ValueError(f"`in_axes` must hold 0 and None only, got {axis!r}.")
    return axes


class _Axis:
    """An axis, or None for none, as a leaf of a PyTree."""

    def __init__(self, axis: int | None):
        self.axis = axis


def _of_list(problems: Sequence[Problem]) -> Stack:
    if not problems:
        raise ValueError("`problems` is empty: there is nothing to fit.")
    first = problems[0]
    for i, problem in enumerate(problems):
        check_problem(problem, f"problems[{i}]")
        if jax.tree.structure(problem) != jax.tree.structure(first):
            raise ValueError(
                f"`problems[{i}]` has another structure than `problems[0]`: the "
                "functions, the loss, and whether there are bounds, a mask and sigma "
                "must be the same."
            )
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(first)]
    rows = [jax.tree.leaves(problem) for problem in problems]
    columns: list[list] = [[row[i] for row in rows] for i in range(len(paths))]
    leaves, batched = [], []
    for path, column in zip(paths, columns, strict=True):
        for i, leaf in enumerate(column):
            if leaf.shape != column[0].shape or leaf.dtype != column[0].dtype:
                where = jax.tree_util.keystr(path)
                raise ValueError(
                    f"`problems[{i}]{where}` is {leaf.dtype} of shape {leaf.shape} but "
                    f"`problems[0]{where}` is {column[0].dtype} of shape "
                    f"{column[0].shape}: pad the data and mask what was added."
                )
        shared = len(column) > 1 and all(leaf is column[0] for leaf in column)
        batched.append(not shared)
        leaves.append(column[0] if shared else _stacked(column))
    if not any(batched):
        batched = [True] * len(leaves)
        leaves = [jnp.stack([leaf] * len(problems)) for leaf in leaves]
    stacked = jax.tree.unflatten(jax.tree.structure(first), leaves)
    return Stack(stacked, tuple(batched), len(problems))


def _stacked(column):
    if any(isinstance(leaf, Tracer) for leaf in column):
        return jnp.stack(column)
    return jnp.asarray(np.stack([np.asarray(leaf) for leaf in column]))
