"""The scale of PC-layers from the command line."""

import pytest
import torch
import yaml
from helpers.command import one_error, quickstart


@pytest.mark.parametrize(
    "arguments",
    [
        ("--preconditioning=FixedPreconditioning", "--preconditioning.scale=learnable"),
        ("--preconditioning.init_args.scale=norm",),  # of the quickstart's AdaptivePreconditioning
        (),
    ],
)
def test_it_is_an_argument(parse, arguments):
    expected = arguments[-1].partition("scale=")[2] if arguments else "unit"
    assert parse(*arguments)["preconditioning.init_args.scale"] == expected


@pytest.mark.slow
def test_an_unknown_one_is_refused_in_a_line(monkeypatch, tmp_path, capsys):
    assert quickstart(monkeypatch, tmp_path / "run", "--preconditioning.scale=ones") != 0
    line = one_error(capsys)
    assert "'unit', 'norm', 'learnable'" in line
    assert "ones" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_its_scales(monkeypatch, tmp_path, capsys):
    scaled = ("--preconditioning.scale=learnable", "--preconditioning.layers=all")
    for folder, *more in (("whole", "--trainer.max_steps=6"), ("parts",)):
        assert quickstart(monkeypatch, tmp_path / folder, *scaled, *more) == 0
    parts = tmp_path / "parts"
    assert quickstart(monkeypatch, parts, "--ckpt_path=last", "--trainer.max_steps=6") != 0  # without `scaled`
    assert "argument `preconditioning.scale` must stay the checkpoint's" in one_error(capsys)
    assert quickstart(monkeypatch, parts, "--ckpt_path=last", "--trainer.max_steps=6", *scaled) == 0
    assert yaml.safe_load((parts / "config.yaml").read_text())["preconditioning"]["init_args"]["scale"] == "learnable"
    ends = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")]
    whole, again = (end["state_dict"] for end in ends)
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert len([name for name in whole if name.endswith(".scale")]) == 8
