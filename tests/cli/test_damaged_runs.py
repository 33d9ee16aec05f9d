"""Run folders with a file that was cut, or with what is nobody's run: one line that names it, and nothing changes."""

import shutil

import pytest
from helpers import ROOT
from helpers.command import one_error, pcgan, quickstart

pytestmark = pytest.mark.slow


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(run):
    last = run / "checkpoints" / "last.ckpt"
    fit = ("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--run_dir", run, "--ckpt_path")
    return {
        "fit last": (*fit, "last"),
        "fit path": (*fit, last),
        "generate": ("generate", last, "--output", run.parent / "images"),
        "evaluate": ("evaluate", last, "--modes=true"),
        "report": ("report", run, "--output", run.parent / "report.html"),
    }


@pytest.mark.parametrize("command", ["fit last", "fit path", "generate", "evaluate", "report"])
@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_cut_record_is_named(name, command, run, monkeypatch, capsys):
    (run / name).write_bytes((run / name).read_bytes()[:-40])
    before = content(run.parent)
    assert pcgan(monkeypatch, *commands(run)[command]) == 1
    line = one_error(capsys)
    assert f"got {run / name}" in line
    assert "readable files" in line
    assert content(run.parent) == before


@pytest.mark.parametrize("command", ["fit last", "fit path", "report"])
def test_damaged_metrics_are_named(command, run, monkeypatch, capsys):
    lines = (run / "metrics.csv").read_bytes().splitlines(keepends=True)
    (run / "metrics.csv").write_bytes(lines[0] + lines[1][:5] + b"\n" + b"".join(lines[2:]))
    before = content(run.parent)
    assert pcgan(monkeypatch, *commands(run)[command]) == 1
    assert f"must hold readable metrics, got {run / 'metrics.csv'}: line 2 must have" in one_error(capsys)
    assert content(run.parent) == before


@pytest.mark.parametrize("kept", ["checkpoints/last.ckpt", "notes.txt"])
def test_a_folder_without_a_configuration_is_not_overwritten(kept, finished, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / kept).parent.mkdir(parents=True)
    (folder / kept).write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    before = content(folder)
    assert quickstart(monkeypatch, folder) == 1
    assert "argument `run_dir` must " in one_error(capsys)
    assert content(folder) == before
