"""Files of run folders that strangers made: times that lie, YAML that explodes, giants."""

import os

import pytest
import torch

from pcgan_lightning.cli.evaluate import _data_of
from pcgan_lightning.report.run_data import read_runs
from pcgan_lightning.runs import last_checkpoint
from pcgan_lightning.spectra import Polynomial


def test_last_is_the_highest_iteration_whatever_the_times(tmp_path, caplog):
    """Not an old file that was touched; what is no checkpoint is told of in a line each."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for iteration, time in ((4, 9e9), (12, 1e9), (8, 2e9), (12, 5e8)):
        path = folder / f"{iteration}_{time:.0f}.ckpt"
        torch.save({"state_dict": {}, "global_step": iteration}, path)
        os.utime(path, (time, time))
    expected = folder / "12_1000000000.ckpt"
    (folder / "cut.ckpt").write_bytes(expected.read_bytes()[:-100])
    (folder / "folder.ckpt").mkdir()
    (folder / "lost.ckpt").symlink_to("nowhere")
    torch.save({"state_dict": {}, "global_step": "99"}, folder / "text.ckpt")
    torch.save({"state_dict": {}, "global_step": -1}, folder / "below.ckpt")
    assert last_checkpoint(tmp_path) == expected
    assert [line.count("is passed by") for line in caplog.messages] == [1] * 5
    expected.write_bytes(expected.read_bytes()[:-100])
    assert last_checkpoint(tmp_path).name == "12_500000000.ckpt"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [BOMB, "x: [&a [*a]]", "x: " + "[" * 5000, "x: 1\nx: 2", "x: !!python/name:os.system", "x: 2020-99-99"]
)
def test_yaml_of_a_run_folder_is_refused_in_one_line(text, tmp_path):
    """By the report, and by an evaluation that looks for its data."""
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "metrics.csv").write_text("step,x\n1,2\n")
    for read in (lambda: read_runs([tmp_path]), lambda: _data_of(tmp_path, tmp_path / "x.ckpt")):
        with pytest.raises(ValueError, match=r"config\.yaml: ") as error:
            read()
        assert "\n" not in str(error.value)


def test_giants_are_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("step" + "".join(f",{n}" for n in range(10**6)) + "\n1" + "," * 10**6 + "\n")
    with pytest.raises(ValueError, match=r"at most 10,000 columns, got 1,000,001"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match=r"`coefficients` must be at most 100, got 200,000$"):
        Polynomial((float("nan"),) * 200_000)
