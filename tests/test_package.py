"""The house itself: floors, public names, pages that tell the truth."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import pcgan_lightning

MODULES = sorted(m.name for m in pkgutil.walk_packages(pcgan_lightning.__path__, "pcgan_lightning."))
# Lower floors first; a module may import from its own room and from lower floors.
FLOORS = [
    {"arguments"},
    {"spectra"},
    {"losses", "optim", "games"},
    {"networks"},
    {"runs"},
    {"data"},
    {"modules", "metrics", "report"},
    {"callbacks"},
    {"cli"},
    {"__main__"},
]
MATHEMATICS = ["spectra", "losses", "optim", "games", "networks"]


def floor(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, parts in enumerate(FLOORS) if part in parts)


def imported_names(module: str) -> list[tuple[str, str]]:
    """Every (module, name) of the package that a module imports."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    found = [(n.module or "", a.name) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    found += [(a.name, "") for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    return [(name, what) for name, what in found if name.startswith("pcgan_lightning.")]


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down_and_through_the_door(module):
    room = module.split(".")[1]
    for name, what in imported_names(module):
        other = name.split(".")[1]
        if other != room:
            assert floor(name) < floor(module), f"{module} imports {name}"
            assert name.count(".") == 1, f"{module} reaches past the __init__ of {name}"
        hidden = next((part for part in (*name.split(".")[2:], what) if part.startswith("_")), None)
        if hidden:  # a private name stays in its folder, or below it
            folder = name[: name.index(f".{hidden}")] if f".{hidden}" in name else name.rpartition(".")[0]
            assert module.startswith(folder), f"{module} imports the private {name}.{what}"


def test_report_and_yaml_need_neither_torch_nor_lightning():
    imports = "import sys, pcgan_lightning.report; from pcgan_lightning.runs import load_yaml"
    code = f"{imports}; print({{'torch', 'lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_yaml_is_read_in_one_place():
    """Its loader alone refuses what hangs: other modules name neither the library nor another's way to it."""
    others = ("yaml", "ruamel", "omegaconf", "load_hparams_from_yaml")
    readers = set()
    for module in MODULES:
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names += [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                names.append(node.attr)
        if any(name.partition(".")[0] in others for name in names):
            readers.add(module)
    assert readers == {"pcgan_lightning.runs.yaml_files"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rooms", "unneeded"),
    [
        (MATHEMATICS, {"lightning", "datasets", "wandb", "torch_fidelity", "sklearn"}),
        # Lightning imports torchmetrics, and that torch_fidelity.
        (["callbacks", "modules"], {"datasets", "wandb", "sklearn"}),
    ],
    ids=["mathematics", "callbacks"],
)
def test_rooms_import_no_more_than_they_need(rooms, unneeded):
    """In a process of their own, which has imported nothing yet."""
    code = f"import sys, {', '.join(f'pcgan_lightning.{room}' for room in rooms)}; print({unneeded} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", [m for m in MODULES if hasattr(importlib.import_module(m), "__path__")])
def test_public_names_are_listed(package):
    module = importlib.import_module(package)
    # Abbreviations, classes, functions, as ruff sorts them.
    assert module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for name in module.__all__:
        found = getattr(module, name)
        # Names of types, as of the values that an argument may have, can have no docstring.
        assert found.__doc__ or not (inspect.isclass(found) or inspect.isroutine(found)), f"{name} has no docstring"


def test_names_at_the_top():
    for name in pcgan_lightning.__all__:
        assert getattr(pcgan_lightning, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pcgan_lightning.nonsense


@pytest.mark.slow
def test_tables_are_those_of_the_results():
    script = ROOT / "benchmarks" / "tables.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_architecture_describes_the_tree():
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "pcgan_lightning").iterdir():
        if not path.name.startswith("_"):
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in architecture, path.name


def test_every_promise_names_a_test_that_is_there():
    """docs/trust.md: each row of its tables ends with the tests that guard it."""
    page = (ROOT / "docs" / "trust.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| (?!Promise)", line)]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"\| (`[^`]+`(, )?)+ \|$", row)] == []
    named = re.findall(r"`(tests/[^`]*)`", page)
    assert len(named) == page.count("tests/")
    for path, _, test in (name.partition("::") for name in named):
        found = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")}
        assert test.startswith("test_"), path
        assert test in found, f"{path} has no {test}"
