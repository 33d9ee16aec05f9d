"""Help and version: short pages, and nothing imported for them that takes long."""

import subprocess
import sys

import pytest
from helpers import ROOT
from helpers.command import pcgan
from lightning.pytorch.cli import LightningCLI

from pcgan_lightning import __version__
from pcgan_lightning.cli.command import COMMANDS
from pcgan_lightning.cli.help import EXAMPLES, SECTIONS, _is_named, _page

# Each with what its output must say.
QUICK = {
    ("--help",): "generate",
    ("--version",): __version__,
    ("generate", "--help"): "--batch_size",
    ("generate", "nowhere.ckpt"): "`checkpoint` must be a whole checkpoint file, got nowhere.ckpt",
    ("generate", "nowhere.ckpt", "--count=0"): "`count` must be at least 1, got 0",
    ("fti",): "`command` must be one of fit, .*, got fti",
    ("fit", "--config", "nowhere.yaml"): "`config` must be a YAML file of arguments, got nowhere.yaml",
}


def test_the_short_help_of_a_fit(fit_parser):
    """At most 150 lines, with each argument that it means to show, and none of what torch has for a target."""
    page = "\n".join(_page("fit", fit_parser))
    assert len(page.splitlines()) <= 150
    for option in (option for contents in SECTIONS.values() for option in contents):
        named = [action.option_strings for action in fit_parser._actions if _is_named(action, option)]
        assert named, option
        assert all(any(f"\n  {name}" in page for name in names) for names in named), option
    assert "torch.nn" not in page


def test_own_arguments_are_in_the_short_help(fit_parser):
    """Those that are neither Lightning's nor help of a class stand there, a new callback's included."""
    page = "\n".join(_page("fit", fit_parser))
    groups = ("guard", "collapse", "preconditioning", "scores", "spectrum", "samples", "progress", "model", "data")
    for name in (action.dest for action in fit_parser._actions):
        if name.partition(".")[0] in groups and "." in name and not name.endswith(".help"):
            assert f"--{name}" in page


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_parse(example, fit_parser, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = EXAMPLES[example].replace("runs/quickstart/config", "configs/quickstart").split()
    assert fit_parser.parse_args(arguments)["trainer.max_steps"] > 0


@pytest.mark.slow
def test_help_as_asked_for(monkeypatch, capsys):
    lines = {}
    for flag in ("--help", "-h", "--help-all"):
        assert pcgan(monkeypatch, "fit", flag) == 0
        lines[flag] = capsys.readouterr().out.splitlines()
    assert lines["--help"] == lines["-h"]
    assert len(lines["--help"]) <= 150 < len(lines["--help-all"])
    assert any("--trainer.gradient_clip_val" in line for line in lines["--help-all"])


def test_commands_are_all_listed():
    assert {*LightningCLI.subcommands()} < {*COMMANDS}


def test_a_quick_answer_needs_neither_torch_nor_lightning():
    """Of all in one process, since each takes a moment."""
    code = f"""
import contextlib, io, re, sys
from pcgan_lightning.cli import main
for arguments, pattern in {QUICK!r}.items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main([*arguments])
    assert re.search(pattern, said.getvalue()), (arguments, said.getvalue())
    assert not {{"torch", "lightning"}} & {{*sys.modules}}, arguments
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_can_be_called():
    call = [sys.executable, "-m", "pcgan_lightning", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout == f"pcgan {__version__}\n"
