"""A finished run and the parser of a fit, for all tests of the command."""

import sys

import pytest
from helpers import ROOT
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
