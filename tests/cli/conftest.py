"""A finished run, for all tests of the command."""

import pytest
from helpers.command import quickstart


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of the quickstart, made tiny."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert quickstart(monkeypatch, folder) == 0
    return folder
