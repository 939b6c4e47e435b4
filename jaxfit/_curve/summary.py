"""The summary of a fit: one aligned table of outcome, parameters and measures."""

from typing import Any

import numpy as np


def summary(result: Any, level: float) -> str:
    """What `CurveFitResult.summary` prints: outcome, parameters, goodness of fit."""
    m = result.measures
    lines = [
        f"{'Outcome':<14}{result.message}",
        f"{'Evaluations':<14}{result.nfev} of the model, {result.njev} of its "
        f"derivatives, {result.nit} steps",
        f"{'Data':<14}{result.num_data} used, {result.dof} degrees of freedom",
        f"{'chi2':<14}{m.chi2:.6g}   reduced {m.reduced_chi2:.6g}",
        f"{'R2':<14}{m.r2:.6g}   adjusted {m.adjusted_r2:.6g}",
        f"{'rmse, mae':<14}{m.rmse:.6g}, {m.mae:.6g}",
        f"{'AIC AICc BIC':<14}{m.aic:.6g}, {m.aicc:.6g}, {m.bic:.6g}",
        "",
    ]
    intervals = result.confidence_interval(level)
    percent = f"{100 * level:g}%"
    head = ["parameter", "value", "std. error", f"{percent} from", "to", ""]
    rows = [head]
    for i, name in enumerate(result.names):
        note = ""
        if result.fixed[i]:
            note = "fixed"
        elif name in result.undetermined:
            note = "not determined by the data"
        elif result.active_mask[i]:
            note = (
                "at its "
                + ("lower" if result.active_mask[i] < 0 else "upper")
                + " bound"
            )
        numbers = (result.popt[i], result.perr[i], *intervals[i])
        rows.append([name, *(f"{value:.6g}" for value in numbers), note])
    widths = [max(len(row[j]) for row in rows) for j in range(5)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [row[j].rjust(widths[j]) for j in range(1, 5)]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    strong = _strong_correlations(result)
    if strong:
        lines += ["", "Correlations above 0.95", *strong]
    if result.absolute_sigma:
        lines += ["", "Errors are those of the given sigma (absolute_sigma=True)."]
    return "\n".join(lines)


def _strong_correlations(result: Any) -> list[str]:
    c, names = result.correlation, result.names
    pairs = [
        (i, j)
        for i in range(len(names))
        for j in range(i)
        if np.isfinite(c[i, j]) and abs(c[i, j]) > 0.95
    ]
    return [f"  {names[j]}, {names[i]}: {c[i, j]:+.4f}" for i, j in pairs]
