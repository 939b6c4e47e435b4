"""The public names are imported when they are first used, and only then.

`jaxfit/__init__.py` has one table from name to module; type checkers read the same
from `__init__.pyi`. What holds for a process that has imported nothing yet is tested in
fresh processes.
"""

import ast
import inspect
import json
import pickle
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jaxtyping
import pytest

import jaxfit


ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(jaxfit._HOMES)
CLASSES = [name for name in NAMES if inspect.isclass(getattr(jaxfit, name))]


def fresh(code: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, where warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def said(code: str):
    """What code in a fresh process prints, which is JSON."""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def imported(code: str) -> set[str]:
    """The modules that code in a fresh process imports, but for standard ones."""
    modules = said(
        "import json, sys; before = set(sys.modules)\n"
        f"{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    return {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    "code",
    [
        "import jaxfit",
        "import jaxfit; dir(jaxfit)",
        "import jaxfit; hasattr(jaxfit, '__version__')",
        "from jaxfit import _trf",
    ],
)
def test_importing_jaxfit_imports_none_of_its_dependencies(code):
    assert imported(code) <= {"jaxfit", "jaxfit._trf"}


def test_a_fit_without_a_warning_imports_nothing_of_scipys_optimisers():
    """Which takes longer than a small fit that need not be compiled."""
    fit = "import jaxfit; jaxfit.curve_fit(lambda t, a: a * t, [1, 2, 3], [2, 4, 6.1])"
    assert "scipy.optimize" not in imported(fit)


def test_the_stub_says_the_same_as_the_table():
    stub = ast.parse((ROOT / "jaxfit" / "__init__.pyi").read_text())
    assert ast.get_docstring(stub) is None  # the docstring is in `__init__.py`
    homes = {}
    for node in stub.body:
        assert isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names:
            assert alias.name == alias.asname  # `as` makes it public to checkers
            homes[alias.name] = node.module or alias.name
    assert homes == jaxfit._HOMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_at_home_where_it_is_defined(name, monkeypatch):
    monkeypatch.delitem(vars(jaxfit), name, raising=False)
    value = getattr(jaxfit, name)
    assert vars(jaxfit)[name] is value  # kept: `__getattr__` is asked once
    home = f"jaxfit.{jaxfit._HOMES[name]}"
    if name == "datasets":
        assert value is import_module(home)
    else:
        assert value is getattr(import_module(home), name)
        assert value.__module__ == home


def test_every_name_comes_with_a_star_and_no_other():
    namespace = {}
    exec("from jaxfit import *", namespace)
    assert namespace.keys() - {"__builtins__"} == {*NAMES}


def test_names_that_are_not_imported_yet_are_listed():
    listed = said("import json, jaxfit; print(json.dumps(dir(jaxfit)))")
    assert {*NAMES} <= {*listed}
    # Besides, what every module has, and nothing that a completion would show.
    assert all(name.startswith("_") for name in {*listed} - {*NAMES})


def test_help_tells_of_every_name():
    text = pydoc.plain(pydoc.render_doc(jaxfit))
    assert jaxfit.__doc__.splitlines()[0].removeprefix("jaxfit: ") in text
    assert [name for name in NAMES if name not in text] == []


def test_a_misspelt_name_is_told_from_the_right_one_and_imports_nothing():
    done = fresh("import jaxfit; jaxfit.curvefit")
    assert done.returncode == 1
    assert "module 'jaxfit' has no attribute 'curvefit'" in done.stderr
    assert "Did you mean: 'CurveFit'?" in done.stderr
    assert imported("import jaxfit\nassert not hasattr(jaxfit, 'curvefit')") == {
        "jaxfit"
    }
    with pytest.raises(ImportError, match="cannot import name 'curvefit'"):
        from jaxfit import curvefit  # noqa: F401  # pyright: ignore


def test_public_classes_are_unpickled_where_nothing_is_imported():
    pickled = pickle.dumps([getattr(jaxfit, name) for name in CLASSES])
    names = said(
        f"import json, pickle; classes = pickle.loads({pickled!r})\n"
        "print(json.dumps([c.__name__ for c in classes]))"
    )
    assert names == CLASSES


def test_submodules_are_reached_whatever_is_imported_first():
    code = "print(json.dumps([t.__name__, s.__name__, d.__name__, callable(f)]))"
    for imports in (
        "import jaxfit; d = jaxfit.datasets; f = jaxfit.solve\n"
        "import jaxfit._trf.trf; t = jaxfit._trf.trf; s = jaxfit._solve",
        "from jaxfit._trf import trf as t; import jaxfit.datasets\n"
        "d = jaxfit.datasets; f = jaxfit.solve; from jaxfit import _solve as s",
    ):
        assert said(f"import json\n{imports}\n{code}") == [
            "jaxfit._trf.trf",
            "jaxfit._solve",
            "jaxfit.datasets",
            True,
        ]


def test_threads_that_ask_at_once_get_the_same():
    same = said("""
import json, random, sys, threading
import jaxfit

sys.setswitchinterval(1e-5)
together = threading.Barrier(8)
seen = []

def ask(seed):
    names = random.Random(seed).sample(jaxfit.__all__, len(jaxfit.__all__))
    together.wait()
    seen.append({name: id(getattr(jaxfit, name)) for name in names})

threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([len(seen), all(one == seen[0] for one in seen)]))
""")
    assert same == [8, True]


def test_names_first_used_while_a_function_is_traced_leave_nothing_of_the_trace():
    """A constant that a module made of `jax.numpy` would be a tracer of that trace."""
    assert (
        said("""
import json, sys
import equinox, jax, jax.numpy, optax
import jaxfit

@jax.jit
def traced(x):
    for name in jaxfit.__all__:
        getattr(jaxfit, name)
    return x

with jax.checking_leaks():
    traced(1.0)
tracers = [
    (name, key)
    for name, module in sys.modules.items() if name.startswith("jaxfit")
    for key, value in vars(module).items() if isinstance(value, jax.core.Tracer)
]
print(json.dumps(tracers))
""")
        == []
    )


def test_a_name_can_be_replaced_for_a_test(monkeypatch):
    before = jaxfit.solve
    with monkeypatch.context() as patch:
        patch.setattr(jaxfit, "solve", None)
        assert jaxfit.solve is None
    assert jaxfit.solve is before


def test_what_is_imported_late_is_type_checked_as_well():
    """pytest's `--jaxtyping-packages` hooks modules when they are imported."""
    with pytest.raises(jaxtyping.TypeCheckError):
        jaxfit.pretty(1.0, 0.1, style=5)  # pyright: ignore[reportArgumentType]
