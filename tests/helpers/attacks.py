"""What an attacker would name in a config or a checkpoint, to touch a file."""

# What an attacker finds installed: a function and a class that run a command when they are called, in no list of
# Python's own dangerous names.
RUN = "torch.utils.collect_env.run"
PROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"
# Functions of the very types that are asked for, so that only their being functions speaks against them.
EVIL = '''
"""Harmless to import."""
from typing import Any, Callable, Iterable
from pathlib import Path
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from pcgan_lightning.modules import TwoPlayerModule
from pcgan_lightning.losses import AdversarialLoss, DiscriminatorPenalty

def network(path: str) -> nn.Module: Path(path).touch()
def loss(path: str) -> AdversarialLoss: Path(path).touch()
def penalty(path: str) -> DiscriminatorPenalty: Path(path).touch()
def optimizer(path: str) -> Optimizer: Path(path).touch()
def scheduler(path: str) -> LRScheduler: Path(path).touch()
def model(path: str) -> TwoPlayerModule: Path(path).touch()
def data(path: str) -> LightningDataModule: Path(path).touch()
def callback(path: str) -> Callback: Path(path).touch()
def logger(path: str) -> Logger: Path(path).touch()
def strategy(path: str) -> Strategy: Path(path).touch()
def target(path: str) -> Callable[[nn.Module], nn.Module]: Path(path).touch()
def instantiate(*_: Any) -> None: Path(%r).touch()
def make_optimizer(parameters: Iterable) -> Optimizer: Path(%r).touch()

class Hooked(Callback):
    def __init__(self, *, whatever: Callable[[Any], Any] = lambda x: x) -> None: self.whatever = whatever

def hook(x: Any) -> Any: Path(%r).touch()

class Collector(Callback):
    def __init__(self, anything: Any) -> None: assert 'class_path' in anything, type(anything)

class NoGame(nn.Module):
    def __init__(self, **_: Any) -> None: Path(%r).touch()
'''


def calls(victim):
    """What to name, and with which arguments, to touch the file."""
    command = f"touch {victim}"
    return {
        "os.system": {"class_path": "os.system", "init_args": {"command": command}},
        "Popen": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(victim)]}},
        "exec": {"class_path": "builtins.exec", "dict_kwargs": {"source": f"open({str(victim)!r}, 'w')"}},
        "installed function": {"class_path": RUN, "init_args": {"command": command}},
        "installed class": {
            "class_path": PROCESS,
            "init_args": {
                "entrypoint": "touch",
                "args": [str(victim)],
                "env": {},
                "stdout": None,
                "stderr": None,
                "local_rank_id": 0,
            },
        },
    }
