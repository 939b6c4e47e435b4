"""The import arrow: a file of jaxfit imports only from its folder and those below it.

Also: what the package may import from elsewhere, that importing it changes nothing in
the process, and which entries the top level of the repository may hold.
"""

import ast
import collections
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "jaxfit"

# Bottom to top. A file may import from the folders before its own, and from its own.
FOLDERS = [
    "_basics",
    "_programs",
    "_functions",
    "_trf",
    "_problem",
    "_solve",
    "_batch",
    "_stream",
    "_scipy",
    "_search",
    "_uncertainty",
    "_posterior",
    "_diagnosis",
    "_curve",
    "_curve_batch",
    "_doors",
]

# Files above the folders, bottom to top.
ROOF = ["datasets", "__init__", "__main__"]

# Files that may import SciPy, each of them only inside a function.
SCIPY_DOORS = {
    "_doors.jacobian_operator",
    "_scipy.messages",
    "_scipy.report",
    "_doors.least_squares",
}

CORE = {"jax", "jaxlib", "equinox", "jaxtyping", "optax", "numpy"}

TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "jaxfit",
    "tests",
    "benchmarks",
    "notebooks",
    "docs",
}


def imports(
    tree: ast.Module, package: list[str]
) -> Iterator[tuple[int, bool, str, list[str]]]:
    """Yield (line, at module level, imported module, names taken from it).

    `package` is the dotted path of the package that the file is in, which relative
    imports start from. Bodies of functions and lambdas are not module level; `if`,
    `try` and class bodies are, because they run when the module is imported.
    """

    def visit(node: ast.AST, top: bool):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, top, alias.name, []
            elif isinstance(child, ast.ImportFrom):
                parents = package[: len(package) - child.level + 1]
                parts = parents if child.level else []
                module = ".".join([*parts, *filter(None, [child.module])])
                yield child.lineno, top, module, [a.name for a in child.names]
            else:
                function = isinstance(
                    child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
                )
                yield from visit(child, top and not function)

    yield from visit(tree, True)


def files_below(package: Path) -> dict[str, Path]:
    """The files of a package by their dotted names, `__init__` of a folder left out."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in sorted(package.rglob("*.py"))
        if path.name != "__init__.py" or path.parent == package
    }


def targets(module: str, names: list[str], files: dict[str, Path]) -> set[str]:
    """The files of jaxfit that one import statement reaches, by their dotted names."""
    inside = module.removeprefix("jaxfit").removeprefix(".")
    if inside in files:
        return {inside}
    reached = {f"{inside}.{name}".removeprefix(".") for name in names}
    if names and reached <= {*files}:
        return reached
    # `from jaxfit import solve` reaches a name of the package, hence all of it.
    return {inside or "__init__"}


def rank(name: str, folders: list[str]) -> int | None:
    """The storey of a file; None for one without."""
    order = [*folders, *ROOF]
    first = name.split(".")[0]
    return order.index(first) if first in order else None


def reached(
    package: Path, folders: list[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What each file imports when it is imported, and what it imports at all."""
    files = files_below(package)
    at_import, ever = {}, {}
    for name, path in files.items():
        parents = ["jaxfit", *name.split(".")[:-1]]
        at_import[name], ever[name] = set(), set()
        for _, top, module, names in imports(ast.parse(path.read_text()), parents):
            if module.split(".")[0] == "jaxfit":
                found = targets(module, names, files)
                ever[name] |= found
                if top:
                    at_import[name] |= found
    return at_import, ever


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def violations(package: Path, folders: list[str], scipy_doors: set[str]) -> list[str]:
    """All breaches of the import rules below the folder `package`, one line each."""
    files = files_below(package)
    out = []
    for name, path in files.items():
        own = rank(name, folders)
        if own is None:
            out.append(f"{name}: no folder of FOLDERS")
            continue
        parents = ["jaxfit", *name.split(".")[:-1]]
        for line, top, module, names in imports(ast.parse(path.read_text()), parents):
            where = f"{name}:{line}"
            base = module.split(".")[0]
            if base == "jaxfit":
                for target in sorted(targets(module, names, files)):
                    other = rank(target, folders)
                    if target not in files:
                        out.append(f"{where}: imports {target}, which is no file")
                    elif other is None or other > own or target == name:
                        out.append(f"{where}: imports {target}, which is not below")
                continue
            if module.startswith("jax._src") or (module == "jax" and "_src" in names):
                out.append(f"{where}: imports jax._src, which is private")
            if base == "scipy" and name not in scipy_doors:
                out.append(f"{where}: imports scipy, but {name} is no SciPy door")
            elif top and base not in CORE and base not in sys.stdlib_module_names:
                out.append(f"{where}: imports {base} at module level")
    if found := circle(reached(package, folders)[1]):
        out.append(f"a circle: {' -> '.join(found)}")
    return out


@pytest.mark.smoke
def test_imports_of_the_package_go_downward():
    assert violations(PACKAGE, FOLDERS, SCIPY_DOORS) == []


def test_the_folders_are_those_of_the_list_and_each_says_what_it_is():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert found - {"__pycache__", "data"} == {*FOLDERS}
    for folder in FOLDERS:
        code = ast.parse((PACKAGE / folder / "__init__.py").read_text())
        assert ast.get_docstring(code)
        assert len(code.body) == 1, f"{folder}/__init__.py holds code"


def test_files_are_short_and_folders_small():
    lines = {
        name: len(path.read_text().splitlines())
        for name, path in files_below(PACKAGE).items()
    }
    assert {name: n for name, n in lines.items() if n > 350} == {}
    assert statistics.median(lines.values()) <= 130
    sizes = collections.Counter(name.split(".")[0] for name in lines)
    assert {name: n for name, n in sizes.items() if n > 15} == {}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from jaxfit._a.f import f", None),
        ("from .._a.f import f", None),
        ("from .._a import f", None),
        ("from .other import g", None),
        ("from . import other", None),
        ("import jaxfit._a.f", None),
        ("import math, jax.numpy as jnp\nfrom optax import losses", None),
        ("def f():\n    import tqdm", None),
        ("from jaxfit._c.f import f", "imports _c.f, which is not below"),
        ("from .._c.f import f", "imports _c.f, which is not below"),
        ("from .._c import f", "imports _c.f, which is not below"),
        ("def f():\n    import jaxfit._c.f", "imports _c.f, which is not below"),
        ("def f():\n    from .f import g", "imports _b.f, which is not below"),
        ("from jaxfit import solve", "imports __init__, which is not below"),
        ("import jaxfit", "imports __init__, which is not below"),
        ("from jaxfit._z import f", "imports _z, which is no file"),
        ("import scipy.optimize", "_b.f is no SciPy door"),
        ("def f():\n    from scipy import linalg", "_b.f is no SciPy door"),
        ("from jax._src import core", "imports jax._src"),
        ("def f():\n    from jax import _src", "imports jax._src"),
        ("import tqdm", "imports tqdm at module level"),
        ("try:\n    import tqdm\nexcept ImportError: ...", "imports tqdm at module"),
        ("class A:\n    import tqdm", "imports tqdm at module level"),
    ],
)
def test_the_import_check_sees_each_kind_of_breach(tmp_path, source, complaint):
    (tmp_path / "__init__.py").write_text("")
    for folder in ("_a", "_b", "_c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.py").write_text("")
    (tmp_path / "_b" / "other.py").write_text("")
    (tmp_path / "_b" / "f.py").write_text(source)
    found = violations(tmp_path, ["_a", "_b", "_c"], set())
    if complaint is None:
        assert found == []
    else:
        assert complaint in found[0]


def test_a_circle_inside_a_folder_is_a_breach(tmp_path):
    (tmp_path / "_a").mkdir()
    (tmp_path / "_a" / "f.py").write_text("from .g import x")
    (tmp_path / "_a" / "g.py").write_text("def late():\n    from .f import y")
    (found,) = violations(tmp_path, ["_a"], set())
    assert found == "a circle: _a.f -> _a.g -> _a.f"


def test_a_folder_without_a_storey_is_a_breach(tmp_path):
    (tmp_path / "_new").mkdir()
    (tmp_path / "_new" / "f.py").write_text("")
    assert violations(tmp_path, ["_a"], set()) == ["_new.f: no folder of FOLDERS"]


def test_a_scipy_door_imports_scipy_only_inside_functions(tmp_path):
    (tmp_path / "_a").mkdir()
    door = tmp_path / "_a" / "door.py"
    door.write_text("def f():\n    import scipy")
    assert violations(tmp_path, ["_a"], {"_a.door"}) == []
    door.write_text("import scipy")
    assert violations(tmp_path, ["_a"], {"_a.door"}) == [
        "_a.door:1: imports scipy at module level"
    ]


# The dependencies are imported first, so that what they do is not blamed on jaxfit. A
# root logger at DEBUG also hears JAX start a back end or compile something, which
# importing jaxfit must not do.
IMPORT_QUIETLY = """
import json, logging, os, sys
import equinox, jax, jaxlib, jaxtyping, numpy, optax
import jax.numpy, jax.scipy

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)

def state():
    return {
        "config": {key: repr(value) for key, value in jax.config.values.items()},
        "environment": dict(os.environ),
        "handlers": list(map(repr, logging.root.handlers)),
    }

before = state()
from jaxfit import *
print(json.dumps([before, state()]))
"""


def test_importing_jaxfit_changes_nothing_and_says_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_QUIETLY],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    before, after = json.loads(line)
    assert after == before


def test_the_top_level_holds_exactly_the_agreed_entries():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    entries = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    if not entries:
        pytest.skip("nothing is tracked yet")
    assert {entry for entry in entries if not entry.startswith(".")} == TOP_LEVEL


def test_the_contributing_page_says_what_each_folder_imports():
    """In the first table of that page; `_basics` is imported by all of them."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(_\w+)`\].* \| ([^|]*) \|$", page, re.MULTILINE)
    imported = {folder: {folder, "_basics"} for folder in FOLDERS}
    for name, others in reached(PACKAGE, FOLDERS)[1].items():
        if name not in ROOF:
            imported[name.split(".")[0]] |= {other.split(".")[0] for other in others}
    expected = []
    for folder in FOLDERS:
        others = [f"`{f}`" for f in FOLDERS if f in imported[folder] - {folder}]
        expected.append((folder, " ".join(others[1:]) or "-"))
    assert rows == expected
