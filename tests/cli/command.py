"""The command as a shell would run it, for tests in one process."""

import sys

from pcgan_lightning.cli import main


def pcgan(monkeypatch, *arguments):
    """Run the command as a shell would; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["pcgan", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0
