"""Settings of the whole suite."""

import os
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


@pytest.fixture(scope="session")
def cifar10(pytestconfig) -> Path:
    """The folder of CIFAR-10's parquet files."""
    folder = pytestconfig.getoption("data")
    if folder is None:
        pytest.skip("CIFAR-10 is not given: name its folder by --data or PCGAN_CIFAR10")
    assert (Path(folder) / "train.parquet").is_file(), f"{folder} has no train.parquet"
    return Path(folder).absolute()
