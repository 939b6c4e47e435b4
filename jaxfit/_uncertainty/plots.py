"""Profiles, regions and health as pictures (matplotlib)."""

from typing import Any

import numpy as np

from .crossings import Side


def _subplots(count: int, axes: Any) -> Any:
    """`count` axes in a row, those given or new ones.

    **Raises:** `ImportError` without matplotlib, `ValueError` for another number.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as err:
        raise ImportError(
            "plot() needs matplotlib: pip install 'jaxfit-kernel[plot]'."
        ) from err
    if axes is None:
        _, axes = plt.subplots(
            1, count, figsize=(3.6 * count, 3.2), layout="constrained", squeeze=False
        )
    axes = np.ravel(np.asarray(axes, object))
    if axes.size != count:
        raise ValueError(f"`axes` must be {count}, one for each picture: {axes.size}.")
    return axes


def plot_profile(profile: Any, axes: Any) -> Any:
    """The signed root of the rise over each parameter; returns the axes."""
    axes = _subplots(len(profile.names), axes)
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
    (ax,) = _subplots(1, axes)
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


def plot_health(report: Any, axes: Any) -> Any:
    """Spectrum, correlations and residuals; returns the axes."""
    axes = _subplots(3, axes)
    spectrum, table, residuals = axes
    values = np.asarray(report.eigenvalues)
    spectrum.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-32), "o")
    spectrum.set_xlabel("direction, the stiffest first")
    spectrum.set_ylabel("eigenvalue of the scaled Fisher information")
    if report.correlation is not None:
        image = table.imshow(report.correlation, vmin=-1, vmax=1, cmap="RdBu")
        table.figure.colorbar(image, ax=table)
        places = range(len(report.names))
        table.set_xticks(places, report.names, rotation=45)
        table.set_yticks(places, report.names)
        table.set_title("correlation")
    r = np.asarray(report.residuals)
    marked = {i for f in report.findings if f.code == "outliers" for i in f.data}
    colours = ["C3" if i in marked else "C0" for i in range(len(r))]
    residuals.scatter(np.arange(len(r)), r, c=colours, s=8)
    residuals.axhline(0, color="0.6")
    residuals.set_xlabel("residual")
    residuals.set_ylabel("in standard deviations")
    return axes
