"""The law of imports: who may import whom, and what a light import must not load."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIB = sorted((ROOT / "nbs" / "lib").glob("*.ipynb"))
CHAPTERS = sorted((ROOT / "nbs" / "chapters").glob("*.ipynb"))
HOMES = {"plotly": "viz", "papermill": "runner", "duckdb": "answers", "open_clip": "features", "umap": "layouts",
         "sentence_transformers": "features", "ipywidgets": "widgets", "anywidget": "widgets", "triton": "triton_",
         "tokenizers": "text", "datasets": "text", "typer": "cli", "sphinx": "book",
         "onnx": "browser", "onnxscript": "browser", "onnxruntime": "browser",
         "dask": "sweep", "distributed": "sweep", "dask_jobqueue": "sweep", "dask_kubernetes": "sweep"}


def code(path):
    """Source of the code cells of a notebook, magics left out."""
    cells = (c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
    return ["\n".join(line for line in "".join(c["source"]).splitlines() if not line.startswith(("%", "!"))) for c in cells]


def module(path):
    """The module a notebook exports to, from its default_exp directive."""
    names = [line.split()[-1] for cell in code(path) for line in cell.splitlines() if line.startswith("#| default_exp")]
    assert len(names) == 1, f"{path.name} must have exactly one default_exp"
    return names[0]


def imports(path):
    """Top-level names imported anywhere in a notebook; for vtd, the module: vtd.text."""
    found = set()
    for node in (n for cell in code(path) for n in ast.walk(ast.parse(cell))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "vtd": found |= {f"vtd.{a.name}" for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module: found.add(node.module)
    return found


ORDER = {module(path): i for i, path in enumerate(LIB)}


@pytest.mark.parametrize("path", LIB + CHAPTERS, ids=lambda p: p.stem)
def test_a_notebook_imports_only_what_stands_before_it(path):
    here = ORDER.get(module(path), len(ORDER))
    for name in (n.removeprefix("vtd.") for n in imports(path) if n.startswith("vtd.")):
        assert not name.startswith("chapters"), f"{path.name} imports a chapter"
        assert ORDER[name] < here, f"{path.name} imports vtd.{name}, which stands after it"


@pytest.mark.parametrize("path", LIB + CHAPTERS, ids=lambda p: p.stem)
def test_each_heavy_dependency_has_one_home(path):
    for name in imports(path):
        home = HOMES.get(name.split(".")[0])
        family = home and home.endswith("_") and module(path).startswith(home)
        assert family or home in (None, module(path)), f"{path.name} imports {name}, whose home is vtd.{home}"


def test_one_notebook_one_module_no_orphans():
    modules = [module(p) for p in LIB + CHAPTERS]
    assert len(set(modules)) == len(modules)
    files = {str(p.relative_to(ROOT / "vtd").with_suffix("")).replace("/", ".") for p in (ROOT / "vtd").rglob("*.py")}
    assert {f for f in files if not f.split(".")[-1].startswith("_")} == set(modules)


def test_import_cells_stand_alone():
    for path in LIB + CHAPTERS:
        for cell in code(path):
            if "nbdev.nbdev_export()" in cell: continue
            kinds = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(cell).body]
            assert all(kinds) or not any(kinds) or "nbdev" in cell, f"{path.name}: imports must stand alone\n{cell[:200]}"


@pytest.mark.parametrize("name, absent", [
    ("vtd.grids", ["torch", "PIL", "plotly"]), ("vtd.text", ["torch", "tokenizers", "datasets"]),
    ("vtd.diffusion", ["plotly", "umap", "ipywidgets", "papermill", "open_clip", "datasets", "pandas"]),
    ("vtd.sweep", ["torch", "dask", "distributed", "pandas"]), ("vtd.cli", ["torch", "plotly", "papermill", "dask"])])
def test_light_imports(name, absent):
    script = f"import sys, {name}; print([m for m in {absent!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_cells_are_short_and_notebooks_light():
    for path in LIB + CHAPTERS:
        assert path.stat().st_size < 1_000_000, f"{path.name} is too big"
        text = path.read_text()
        assert "plotly.js v" not in text and '"widgets"' not in text
        for cell in code(path):  # one class may fill a longer cell
            limit = 72 if len([n for n in ast.parse(cell).body if isinstance(n, ast.ClassDef)]) == len(ast.parse(cell).body) == 1 else 42
            assert cell.count("\n") < limit, f"{path.name} has a long cell: {cell[:90]!r}"
