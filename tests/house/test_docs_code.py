"""Every python block of README.md and docs/*.md runs, and prints what the page says.

The blocks of a page share one namespace and run in their order. A text block right
below a python block is what it prints.
"""

import re
from pathlib import Path

import jax
import pytest

import jaxfit


ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}


@pytest.fixture(autouse=True)
def restore_precision():
    """Pages may switch float64 on or off; the next one starts as conftest left it."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if BLOCK.search(text)]
)
def test_the_code_of_a_page_runs(page, capsys):
    text = PAGES[page]
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        # Blank lines in front make a traceback name the line of the page.
        first = text.count("\n", 0, block.start("code"))
        code = compile("\n" * first + block["code"], str(ROOT / page), "exec")
        exec(code, namespace)
        printed = capsys.readouterr().out
        if block["output"] is not None:
            assert printed == block["output"], f"{page}, line {first + 1}"


def test_every_python_block_is_found():
    for page, text in PAGES.items():
        fences = re.findall(r"^\s*`{3,}\s*py", text, re.MULTILINE)
        assert len(fences) == len(BLOCK.findall(text)), page


def test_the_readme_tells_how_to_start_on_a_fresh_machine():
    commands = re.findall(r"^python3 -m venv .*$", PAGES["README.md"], re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("python -m jaxfit")
    assert commands[1].endswith("python -m pytest -n 2")


def test_the_api_page_shows_every_public_name():
    shown = set(re.findall(r"^::: jaxfit\.(\w+)$", PAGES["docs/api.md"], re.MULTILINE))
    assert shown == {*jaxfit.__all__}


def tables_of_files(text: str) -> dict[str, list[str]]:
    """The files with a row below the heading of each folder, in their order."""
    tables = {}
    for section in re.split(r"^### `", text, flags=re.MULTILINE)[1:]:
        folder = section.split("`")[0]
        tables[folder] = re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)
    return tables


def test_the_contributing_page_has_a_row_for_every_file():
    package = ROOT / "jaxfit"
    folders = {}
    for path in package.glob("_*/*.py"):
        if path.name != "__init__.py":
            name = path.relative_to(package).as_posix()
            folders.setdefault(path.parent.name, []).append(name)
    tables = tables_of_files(PAGES["docs/contributing.md"])
    assert {folder: sorted(files) for folder, files in folders.items()} == tables


def test_every_file_that_a_page_names_is_there():
    for page, text in PAGES.items():
        for name in re.findall(r"`(_\w+/\w+\.py)`", text):
            assert (ROOT / "jaxfit" / name).exists(), f"{page}: {name}"
