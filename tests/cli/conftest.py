"""A finished run and the parser of a fit, for all tests of the command."""

import functools
import importlib
import sys
import time

import pytest
import yaml
from helpers import ROOT
from helpers.attacks import EVIL
from helpers.command import pcgan, quickstart

from pcgan_lightning.cli.fit import PCGANCLI


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of the quickstart, made tiny."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert quickstart(monkeypatch, folder) == 0
    return folder


@pytest.fixture(scope="session")
def fit_parser():
    """The parser of `pcgan fit`, which takes its time to be built."""
    found = []

    def stop(cli, *_):
        found.append(cli._parser("fit"))
        sys.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PCGANCLI, "parse_arguments", stop)
        pcgan(patch, "fit")
    return found[0]


@pytest.fixture(scope="session")
def parse(fit_parser):
    """Return the configuration of the quickstart with further arguments."""
    config = ("--config", str(ROOT / "configs" / "quickstart.yaml"))
    return lambda *arguments: fit_parser.parse_args([*config, *map(str, arguments)])


@pytest.fixture(scope="session")
def resolve(fit_parser):
    """Return what `pcgan fit --config FILE --print_config` says."""

    @functools.cache
    def resolve(config):
        return fit_parser.dump(fit_parser.parse_args(["--config", str(config)]), skip_none=False)

    return lambda config: yaml.safe_load(resolve(config))


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """The file that no attack may touch; the attacker's module can be imported."""
    path = tmp_path / "touched"
    (tmp_path / "evil_names.py").write_text(EVIL % ((str(path),) * 4))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("evil_names")
    yield path
    sys.modules.pop("evil_names", None)
    time.sleep(0.1)  # for a process that was started
    assert not path.exists()
