"""Pictures of profiles and of joint regions (matplotlib)."""

from typing import Any

import numpy as np

from .._basics.figures import subplots
from .crossings import Side


def plot_profile(profile: Any, axes: Any) -> Any:
    """The signed root of the rise over each parameter; returns the axes."""
    axes = subplots(len(profile.names), axes)
    far = np.asarray(profile.reach)
    for i, (ax, name) in enumerate(zip(axes, profile.names, strict=True)):
        centre, error = float(profile.estimate[i]), float(profile.errors[i])
        points = [(centre, 0.0)]
        sides = (
            (-1, profile.lower, profile.lower_side),
            (1, profile.upper, profile.upper_side),
        )
        for sign, values, side in sides:
            for j, q in enumerate(far):
                if int(side[i, j]) == Side.CROSSED:
                    points.append((float(values[i, j]), sign * float(q)))
        x, tau = np.array(sorted(points)).T
        ax.plot(x, tau, "o-", color="C0", label="profile")
        if np.isfinite(error) and error > 0:
            ends = np.array([-1, 1]) * far.max()
            ax.plot(centre + error * ends, ends, "--", color="0.6", label="linear")
        for q in far:
            ax.axhline(q, color="0.85", zorder=0)
            ax.axhline(-q, color="0.85", zorder=0)
        ax.set_xlabel(name)
    axes[0].set_ylabel("root of the rise of the cost")
    axes[0].legend()
    return axes


def plot_contour(contour: Any, axes: Any) -> Any:
    """The regions of two parameters, the widest first; returns the axes."""
    (ax,) = subplots(1, axes)
    order = np.argsort(contour.levels)[::-1]
    for place, j in enumerate(order):
        edge = np.asarray(contour.points[j])
        label = f"{100 * contour.levels[j]:g}%"
        closed = np.concatenate([edge, edge[:1]])
        ax.plot(*closed.T, color=f"C{place}", label=label)
        if np.isfinite(edge).all():
            ax.fill(*edge.T, color=f"C{place}", alpha=0.2, lw=0)
    ax.plot(*np.asarray(contour.estimate), "+", color="k")
    ax.set_xlabel(contour.names[0])
    ax.set_ylabel(contour.names[1])
    ax.legend()
    return ax
