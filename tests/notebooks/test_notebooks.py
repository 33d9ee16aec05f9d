"""The notebooks are those of their scripts, and run from top to bottom."""

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FEWER = {  # of what would take minutes here; the notebooks are stored with all
    "seeds = range(100)": "seeds = range(25)",
    "(0.1, 0.3, 1.0, 3.0, 10.0)": "(1.0,)",
    "(0.5, 0.8, 1.0, 1.1, 1.25, 2.0)": "(1.1, 1.25)",
    "STEPS, SHOWN = 2000, (250, 500, 1000, 1500, 2000)": "STEPS, SHOWN = 1000, (250, 500, 1000)",
    "ITERATIONS = 200": "ITERATIONS = 80",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    """Its cells run, and assert what the notebook claims."""
    import jupytext  # these take a second, which the fast tests need not wait
    import nbformat
    from nbclient import NotebookClient

    notebook, script = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
    cells = [[(cell.cell_type, cell.source) for cell in n.cells] for n in (notebook, script)]
    assert cells[0] == cells[1], f"run `python notebooks/build.py {path.stem}`"
    assert any(cell.get("outputs") for cell in notebook.cells), "a notebook is stored with its outputs"
    assert any(cell.source.lstrip().startswith("assert ") for cell in notebook.cells)
    for cell in notebook.cells:
        for whole, part in FEWER.items():
            cell.source = cell.source.replace(whole, part)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
