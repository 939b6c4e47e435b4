"""The tables of the documentation are those of the committed results."""

import ast
import re
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    """The runner; it imports nothing but the standard library and its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import run

    yield run
    for name in {*sys.modules} - before:
        if name.split(".")[0] in {"run", "tools", "accelerator", *run.SCRIPTS}:
            del sys.modules[name]


def test_the_page_is_up_to_date(run):
    text = run.PAGE.read_text()
    results = {name: run.load(name) for name in run.FOLDERS}
    assert run.page(text, results) == text, "run: python benchmarks/run.py --tables"
    text, result = run.CONTRACT.read_text(), results["precision"]
    assert run.contract(text, result) == text, "run: python benchmarks/run.py --tables"


def test_the_precisions_have_a_page_of_their_own(run, monkeypatch):
    result = {
        "question": "How many?",
        "targets": [],
        "tables": [{"title": "Digits", "columns": ["a", "b"], "rows": [["x", 7]]}],
        "notes": [],
        "quick": False,
        "seconds": 1,
        "versions": {},
        "machine": {"cores": 1, "cpu": "C", "platform": "P", "backend": "gpu"},
    }
    found = [
        ("A B", "accelerator/precision.py", result),
        ("A B", "accelerator/one_fit.py", result),
    ]
    monkeypatch.setattr(run, "on_accelerators", lambda: iter(found))
    empty = f"# P\n\n{run.BEGIN}\n\nold\n\n{run.END}\n"
    contract = run.contract(empty, None)
    assert "old" not in contract and "Not measured yet." in contract
    assert "### Precision on A B" in contract and "One fit" not in contract
    page = run.page(empty, dict.fromkeys(run.FOLDERS))
    assert "### One fit on A B" in page and "### Precision" not in page


def test_every_picture_is_there(run):
    for name in run.FOLDERS:
        result = run.load(name)
        if result is not None and "picture" in result:
            drawn = (run.PAGE.parent / "images" / f"{name}.svg").read_text()
            for panel in result["picture"]["panels"]:
                assert panel["title"] in drawn
                shown = [value for row in panel["rows"].values() for value in row]
                assert all(0 <= value <= 100 for value in shown)


def test_every_script_is_run_and_every_result_is_of_a_script(run):
    found = {}
    for path in BENCHMARKS.glob("*/*.py"):
        if path.name != "__init__.py":
            found.setdefault(path.parent.name, set()).add(path.stem)
    assert found.pop("tools") and found.pop("accelerator")  # which gpu.py runs
    assert found == {folder: {*names} for folder, names in run.SCRIPTS.items()}
    assert len(run.FOLDERS) == sum(map(len, run.SCRIPTS.values()))  # each name once
    assert {path.name for path in BENCHMARKS.glob("*.py")} == {"run.py", "gpu.py"}
    assert {p.stem for p in run.RESULTS.glob("*.json")} <= {*run.FOLDERS}


def test_the_readme_has_the_question_of_each_folder(run):
    text = (BENCHMARKS / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", text, re.MULTILINE))
    del rows["tools"]  # which ask nothing
    folders = [*run.SCRIPTS, "accelerator"]
    assert rows == {folder: run.question(folder) for folder in folders}


def defined(module: str) -> set[str]:
    """The names at the top of a file of the benchmarks."""
    path = BENCHMARKS.joinpath(*module.split(".")).with_suffix(".py")
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_what_scripts_import_and_run_of_each_other_is_there(run):
    """Many of them need packages that the tests do not have, so none is imported."""
    folders = {"tools", "accelerator", *run.SCRIPTS}
    for path in [*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("*/*.py")]:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                folder, _, script = node.module.partition(".")
                names = {alias.name for alias in node.names}
                if script and folder in folders:
                    assert names <= defined(node.module), path.name
                else:
                    # By its folder alone, or by its name alone: neither is found.
                    assert folder not in {*run.FOLDERS} - folders, path.name
                    if folder in folders:
                        assert all(defined(f"{folder}.{name}") for name in names)
        for module, name in re.findall(r'fresh\(\s*"([\w.]+)", "(\w+)"', text):
            assert name in defined(module), path.name


def test_a_number_keeps_three_digits_and_a_miss_is_said(run):
    result = {
        "question": "Is it fast?",
        "targets": [{"asked": "at most 1", "measured": 1.23456, "met": False}],
        "tables": [{"title": "T", "columns": ["a", "b"], "rows": [["x", 12345]]}],
        "notes": [],
    }
    text = run.as_text("name", result)
    assert "1.23" in text and "NOT MET" in text and "12,345" in text
    assert "1.2345" not in text
