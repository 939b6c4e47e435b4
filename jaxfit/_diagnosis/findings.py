"""Findings, each with a stable code, and the health report of them."""

import dataclasses
import enum
import json
from typing import Any

import numpy as np

from .plots import plot_health


class Severity(enum.IntEnum):
    """How much a finding matters."""

    INFO = 0
    WARNING = 1
    ERROR = 2


INFO, WARNING, ERROR = Severity


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was seen.

    - `code`: a stable name of its kind, such as "bound-active".
    - `severity`: INFO is good to know, WARNING may mislead who trusts the numbers,
        ERROR means that they are wrong or undefined.
    - `seen`: what was seen, with numbers; `advice`: what to do about it.
    - `params`, `data`: the names of parameters and the indices of residuals concerned.
    """

    code: str
    severity: Severity
    seen: str
    advice: str
    params: tuple[str, ...] = ()
    data: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class HealthReport:
    """What [`jaxfit.diagnose`][] found, the most severe first.

    **Attributes:**

    - `findings`: of [`jaxfit.Finding`][].
    - `names`: the parameters'. `eigenvalues`: those of the scaled Fisher information,
        the largest first: squares of singular values of J with columns of length 1;
        `directions` puts the direction of each in words.
    - `condition`: the condition number of that J; `rank` its rank.
    - `correlation`: of the parameters, a list of lists; None where it is not defined.
    - `residuals`: in the order of the data, in units of their deviation.
    """

    findings: tuple[Finding, ...]
    names: tuple[str, ...]
    eigenvalues: tuple[float, ...]
    directions: tuple[str, ...]
    condition: float
    rank: int
    correlation: list[list[float]] | None
    residuals: tuple[float, ...]

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; None if there is none."""
        return max((f.severity for f in self.findings), default=None)

    @property
    def healthy(self) -> bool:
        """Whether nothing above information was found."""
        return all(f.severity == Severity.INFO for f in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings."""
        return tuple(f.code for f in self.findings)

    def summary(self) -> str:
        """The report as text."""
        if self.healthy:
            head = "Healthy: nothing above information was found."
        else:
            bad = sum(f.severity > Severity.INFO for f in self.findings)
            head = f"{bad} finding{'s' if bad > 1 else ''} above information."
        lines = [head]
        for finding in self.findings:
            lines += [
                "",
                f"{finding.severity.name} {finding.code}: {finding.seen}",
                f"    {finding.advice}",
            ]
        if self.eigenvalues:
            lines += [
                "",
                f"Scaled Fisher information: rank {self.rank} of {len(self.names)}, "
                f"condition number of J {self.condition:.3g}.",
                f"  stiffest  {self.eigenvalues[0]:.3g}  {self.directions[0]}",
                f"  sloppiest {self.eigenvalues[-1]:.3g}  {self.directions[-1]}",
            ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists, numbers and strings."""
        out = dataclasses.asdict(self)
        for finding in out["findings"]:
            finding["severity"] = Severity(finding["severity"]).name
        return _plain(out)

    def to_json(self) -> str:
        """`to_dict` as text. What is not finite becomes a string."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def plot(self, axes: Any = None) -> Any:
        """Spectrum, correlations and residuals, by matplotlib, on three `axes`."""
        return plot_health(self, axes)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
