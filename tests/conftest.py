"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

# Nothing may reach for the network, and two test processes must not fight for two cores with two threads each.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--data", default=os.environ.get("PCGAN_CIFAR10"), help="folder of CIFAR-10's parquet files")


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Every test has a seed and a folder of its own, so that none sees what lies in the clone."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.fixture
def drawn():
    """For tests that look at what a figure shows; in others the canvas stays empty, which saves half of their time."""


@pytest.fixture(autouse=True)
def _empty_canvas(request, monkeypatch):
    backend = sys.modules.get("matplotlib.backends.backend_agg")
    if backend is not None and "drawn" not in request.fixturenames:
        draw = lambda canvas: setattr(canvas, "renderer", canvas.get_renderer())  # noqa: E731
        monkeypatch.setattr(backend.FigureCanvasAgg, "draw", draw)


@pytest.fixture(scope="session")
def cifar10(pytestconfig) -> Path:
    """The folder of CIFAR-10's parquet files."""
    folder = pytestconfig.getoption("data")
    if folder is None:
        pytest.skip("CIFAR-10 is not given: name its folder by --data or PCGAN_CIFAR10")
    assert (Path(folder) / "train.parquet").is_file(), f"{folder} has no train.parquet"
    return Path(folder).absolute()
