"""What a script hands back, and how it is shown: as text and as markdown.

A report is a dictionary that JSON can hold: the question, what the target asked for and
what was measured, tables, and notes on how.
"""

from pathlib import PurePosixPath
from typing import Any


def report(
    doc: str | None,
    targets: list[dict[str, Any]],
    tables: list[dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    """The result of one script, whose docstring opens with its question."""
    return {
        "question": (doc or "").partition("\n")[0],
        "targets": targets,
        "tables": tables,
        "notes": notes,
    }


def target(
    asked: str,
    measured: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> dict[str, Any]:
    """One number that was asked for; met if it is within its limits."""
    high = float("inf") if at_most is None else at_most
    low = -float("inf") if at_least is None else at_least
    return {"asked": asked, "measured": measured, "met": bool(low <= measured <= high)}


def table(title: str, columns: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """A table; cells are strings, numbers or None."""
    return {"title": title, "columns": columns, "rows": rows}


def as_text(name: str, result: dict[str, Any]) -> str:
    """The report for a terminal, columns aligned."""
    parts = [f"== {name}: {result['question']}"]
    for one in _all_tables(result):
        cells = [one["columns"], *_formatted(one)]
        widths = [max(len(row[j]) for row in cells) for j in range(len(cells[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in cells
        ]
        parts.append("\n".join([one["title"], *lines]))
    return "\n\n".join(parts) + "\n"


def as_markdown(path: str, result: dict[str, Any] | None) -> str:
    """The report of the script at `path` as a section; None: it was not run yet."""
    name = PurePosixPath(path).stem
    title = name.replace("_", " ").capitalize()
    parts = [f"### {title}"]
    if result is None:
        return "\n\n".join([*parts, "Not measured yet."])
    parts.append(f"*{result['question']}* (`benchmarks/{path}`)")
    if result["quick"]:
        parts.append(
            "**Rough:** measured with `--quick`, with few repetitions and on a part "
            "of the problems. Not to be quoted."
        )
    if "picture" in result:
        parts.append(f"![{result['picture']['label']}](images/{name}.svg)")
    for one in _all_tables(result):
        right = ["---"] + ["--:"] * (len(one["columns"]) - 1)
        rows = [one["columns"], right, *_formatted(one)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join([f"{one['title']}:", "", *lines]))
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    parts.append(_origin(result))
    return "\n\n".join(parts)


def _all_tables(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        [t["asked"], t["measured"], "met" if t["met"] else "NOT MET"]
        for t in result["targets"]
    ]
    targets = table("Targets", ["asked", "measured", "outcome"], rows)
    return [*([targets] if rows else []), *result["tables"]]


def _formatted(one: dict[str, Any]) -> list[list[str]]:
    return [[_cell(value) for value in row] for row in one["rows"]]


def _cell(value: Any) -> str:
    """Integers in full, other numbers to three digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 100 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _origin(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    names = ", ".join(f"{k} {v}" for k, v in versions.items() if v != "none")
    return (
        f"Measured on {machine['cores']} cores of {machine['cpu']} "
        f"({machine['platform']}, JAX back end {machine['backend']}) with {names}; "
        f"the script took {result['seconds']:.0f} s."
    )
