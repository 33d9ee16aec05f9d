"""`pcgan compare`: runs side by side, one page, what failed is told."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT
from helpers.command import TINY, one_error, pcgan


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ((ROOT / "configs" / "none.yaml",), r"`configs` must be configuration files, got .*none.yaml, which does not"),
        (2 * (ROOT / "configs" / "quickstart.yaml",), r"`configs` must be files of different names, .*'quickstart'"),
        ((ROOT / "configs" / "quickstart.yaml", "--parallel=0"), r"`parallel` must be at least 1, got 0"),
    ],
)
def test_mistakes(configs, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pcgan(monkeypatch, "compare", *configs) == 1
    assert re.search(said, one_error(capsys))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_beside_a_failing_one(tmp_path):
    """The page holds what ran, and the status tells of what failed."""
    quickstart = (ROOT / "configs" / "quickstart.yaml").read_text()
    (tmp_path / "fine.yaml").write_text(quickstart)
    (tmp_path / "wrong.yaml").write_text(f"{quickstart}\nno_such_part: 1\n")

    configs = [str(tmp_path / f"{name}.yaml") for name in ("fine", "wrong")]
    command = [sys.executable, "-m", "pcgan_lightning.cli", "compare", *configs, "--folder", str(tmp_path / "runs")]
    further = ["--", *TINY, "--trainer.max_steps=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    call = [*command, *further]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pcgan: error: 1 of 2 runs failed, see log.txt of each: wrong: ")
    assert "Traceback" not in done.stderr
    assert "fine" in (tmp_path / "runs" / "report.html").read_text()
    assert (tmp_path / "runs" / "fine" / "checkpoints" / "last.ckpt").exists()
