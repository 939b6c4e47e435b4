"""The import arrow: a module of jaxfit imports only modules below it.

Also: what the package may import from elsewhere, that importing it changes nothing in
the process, and which entries the top level of the repository may hold.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxfit"

# Bottom to top. A module may import only modules that stand before it.
LAYERS = [
    "_types",
    "_varying",
    "_once",
    "_check",
    "_machine",
    "_budget",
    "_kept",
    "_known_by",
    "_content",
    "_capture",
    "_function",
    "_shared",
    "_fork",
    "_program",
    "_abstract",
    "_masked",
    "_sigma",
    "_precision",
    "_status",
    "_loss",
    "_small",
    "_bounds",
    "_pack",
    "_subproblem",
    "_reflect",
    "_differences",
    "_linearise",
    "_derivatives",
    "_repair",
    "_matrix_free",
    "_covariance",
    "_floating",
    "_constants",
    "_expected",
    "_curve",
    "_problem",
    "_rows",
    "_certificate",
    "_state",
    "_trf",
    "_objective",
    "_mesh",
    "_spread",
    "_implicit",
    "_result",
    "_hessian",
    "_solve",
    "_kink",
    "_second_opinion",
    "_watch",
    "_elimination",
    "_lane_gram",
    "_stack",
    "_lane_data",
    "_lanes",
    "_one_by_one",
    "_queue",
    "_batch_solution",
    "_batch_implicit",
    "_batch",
    "_names",
    "_distributions",
    "_converged",
    "_evidence",
    "_covariance_kinds",
    "_influence",
    "_rays",
    "_uncertainty_plots",
    "_profile",
    "_resample",
    "_progress",
    "_slices",
    "_refits",
    "_bootstrap",
    "_rounding",
    "_propagate",
    "_bijection",
    "_log_density",
    "_consensus",
    "_goodness",
    "_findings",
    "_checkup",
    "_fit_health",
    "_parameter_health",
    "_residual_health",
    "_diagnose",
    "_memory_profiler",
    "_mapped",
    "_source",
    "_chunk",
    "_reading",
    "_checkpoint",
    "_pass",
    "_drive",
    "_fingerprint",
    "_resume",
    "_warm_up",
    "_plan",
    "_fit_info",
    "_stream",
    "_signature",
    "_explain",
    "_buckets",
    "_programs",
    "_from_numpy",
    "_data",
    "_scipy_options",
    "_host",
    "_report",
    "_scipy_model",
    "_paddable",
    "_predict",
    "_nonfinite",
    "_start",
    "_guess",
    "_measures",
    "_inference",
    "_summary",
    "_plot",
    "_fit_result",
    "_curve_options",
    "_curve_program",
    "_curve_call",
    "_curve_warnings",
    "_curve_result",
    "_curve_fit",
    "_fit_large",
    "_least_squares",
    "_batch_data",
    "_batch_read",
    "_batch_program",
    "_batch_call",
    "_neighbours",
    "_batch_start",
    "_batch_result",
    "_curve_fit_batch",
    "datasets",
    "__init__",
    "__main__",
]

# Modules that may import SciPy, each of them only inside a function.
SCIPY_DOORS = {
    "_measures",
    "_report",
    "_curve_warnings",
    "_curve_result",
    "_least_squares",
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


def siblings(module: str, names: list[str], modules: set[str]) -> set[str]:
    """The modules of jaxfit that one import statement reaches."""
    if module == "jaxfit":
        # `from jaxfit import _trf` reaches _trf; `from jaxfit import solve` reaches
        # solve only through __init__.
        return {name if name in modules else "__init__" for name in names or [""]}
    return {module.removeprefix("jaxfit.")}


def violations(package: Path, layers: list[str], scipy_doors: set[str]) -> list[str]:
    """All breaches of the import rules below the folder `package`, one line each."""
    files = {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in sorted(package.rglob("*.py"))
    }
    modules = {*files, *layers}
    out = []
    for name, path in files.items():
        if name not in layers:
            out.append(f"{name}: add it to LAYERS")
            continue
        below = layers[: layers.index(name)]
        parents = ["jaxfit", *name.split(".")[:-1]]
        for line, top, module, names in imports(ast.parse(path.read_text()), parents):
            where = f"{path.name}:{line}"
            base = module.split(".")[0]
            if base == "jaxfit":
                out += [
                    f"{where}: imports {target}, which is not below {name}"
                    if target in modules
                    else f"{where}: imports {target}: add it to LAYERS"
                    for target in sorted(siblings(module, names, modules))
                    if target not in below
                ]
                continue
            if module.startswith("jax._src") or (module == "jax" and "_src" in names):
                out.append(f"{where}: imports jax._src, which is private")
            if base == "scipy" and name not in scipy_doors:
                out.append(f"{where}: imports scipy, but {name} is no SciPy door")
            elif top and base not in CORE and base not in sys.stdlib_module_names:
                out.append(f"{where}: imports {base} at module level")
    return out


def test_imports_of_the_package_go_downward():
    assert violations(PACKAGE, LAYERS, SCIPY_DOORS) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from jaxfit._a import f", None),
        ("from ._a import f", None),
        ("from . import _a", None),
        ("import jaxfit._a", None),
        ("import math, jax.numpy as jnp\nfrom optax import losses", None),
        ("def f():\n    import tqdm", None),
        ("from jaxfit._c import f", "imports _c, which is not below _b"),
        ("from ._c import f", "imports _c, which is not below _b"),
        ("from jaxfit import _a, _c", "imports _c, which is not below _b"),
        ("from . import _c", "imports _c, which is not below _b"),
        ("def f():\n    import jaxfit._c", "imports _c, which is not below _b"),
        ("def f():\n    from ._b import g", "imports _b, which is not below _b"),
        ("from jaxfit import solve", "imports __init__, which is not below _b"),
        ("import jaxfit", "imports __init__, which is not below _b"),
        ("from jaxfit._z import f", "imports _z: add it to LAYERS"),
        ("import scipy.optimize", "_b is no SciPy door"),
        ("def f():\n    from scipy import linalg", "_b is no SciPy door"),
        ("from jax._src import core", "imports jax._src"),
        ("def f():\n    from jax import _src", "imports jax._src"),
        ("import tqdm", "imports tqdm at module level"),
        ("try:\n    import tqdm\nexcept ImportError: ...", "imports tqdm at module"),
        ("class A:\n    import tqdm", "imports tqdm at module level"),
    ],
)
def test_the_import_check_sees_each_kind_of_breach(tmp_path, source, complaint):
    for name in ("_a", "_c", "__init__"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "_b.py").write_text(source)
    found = violations(tmp_path, ["_a", "_b", "_c", "__init__"], set())
    if complaint is None:
        assert found == []
    else:
        (message,) = found
        assert complaint in message


def test_a_module_without_a_layer_is_a_breach(tmp_path):
    (tmp_path / "_new.py").write_text("")
    assert violations(tmp_path, ["_a"], set()) == ["_new: add it to LAYERS"]


def test_a_scipy_door_imports_scipy_only_inside_functions(tmp_path):
    door = tmp_path / "_door.py"
    door.write_text("def f():\n    import scipy")
    assert violations(tmp_path, ["_door"], {"_door"}) == []
    door.write_text("import scipy")
    assert violations(tmp_path, ["_door"], {"_door"}) == [
        "_door.py:1: imports scipy at module level"
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
import jaxfit
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
