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

CIFAR10 = Path(os.environ.get("PCGAN_CIFAR10", Path(__file__).parents[2] / "shared" / "data" / "cifar10"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def cifar10() -> Path:
    """The folder of CIFAR-10 parquet files."""
    if not (CIFAR10 / "train.parquet").is_file():
        pytest.skip(f"CIFAR-10 parquet files are not in {CIFAR10}; set PCGAN_CIFAR10")
    return CIFAR10
