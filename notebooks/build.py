"""Make each notebook of its script, with the outputs of a run: python notebooks/build.py [NAME ...]."""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)
    for name in names:
        notebook = jupytext.read(FOLDER / f"{name}.py")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # jupytext's are random
        started = time.perf_counter()
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of the run
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}.ipynb, run in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
