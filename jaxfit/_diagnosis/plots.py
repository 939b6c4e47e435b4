"""Pictures of a health report: spectrum, correlations, residuals (matplotlib)."""

from typing import Any

import numpy as np

from .._basics.figures import subplots


def plot_health(report: Any, axes: Any) -> Any:
    """Spectrum, correlations and residuals; returns the axes."""
    axes = subplots(3, axes)
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
