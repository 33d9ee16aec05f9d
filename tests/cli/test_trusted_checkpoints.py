"""Checkpoints that name what would touch a file, and damaged ones: refused in one line; the file stays untouched."""

import pickle
import random
import re

import pytest
import torch
from helpers.attacks import RUN, calls
from helpers.command import one_error, pcgan
from helpers.short_fits import assert_same

from pcgan_lightning import GAN
from pcgan_lightning.cli.continuing import check_checkpoint
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.runs import read_checkpoint


def nested(place, value):
    def change(arguments):
        arguments[place] = value

    return change


CHANGES = {
    **{f"_instantiator {path}": nested("_instantiator", path) for path in ("os.system", RUN, "evil_names.instantiate")},
    "_instantiator that is no text": nested("_instantiator", ["os", "system"]),
    **{
        f"_class_path {path}": nested("_class_path", path)
        for path in (
            "subprocess.Popen",
            "evil_names.model",
            "evil_names.NoGame",
            "torch.nn.Linear",
            "antigravity.x",
            "x",
        )
    },
    "_class_path that is no text": nested("_class_path", 3),
}


@pytest.fixture
def altered(finished, tmp_path):
    """A function that changes a good checkpoint and saves it elsewhere."""

    def make(change):
        content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
        change(content)
        path = tmp_path / "altered.ckpt"
        torch.save(content, path)
        return path

    return make


def assert_refused(checkpoint, pattern=""):
    """Both functions that read checkpoints refuse the file, in one line."""
    for read in (load_gan, GAN.load_from_checkpoint, check_checkpoint):
        with pytest.raises(ValueError, match=re.escape(pattern)) as error:
            read(checkpoint)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", CHANGES)
def test_checkpoint_calls_nothing(change, altered, victim):
    path = altered(lambda content: CHANGES[change](content["hyper_parameters"]))
    assert_refused(path, "`" + change.partition(" ")[0] + "`")


@pytest.mark.parametrize("key", ["hparams", "module_arguments"])
def test_checkpoint_with_the_keys_of_old_releases(key, altered, victim):
    """Lightning still reads them."""
    path = altered(lambda content: content.update({key: {"_instantiator": "evil_names.instantiate"}}))
    assert_refused(path, "`_instantiator`")


@pytest.mark.parametrize(
    ("place", "call"),
    [
        *((place, "own function") for place in ("generator", "discriminator_optimizer", "loss", "anything")),
        *(("anything", call) for call in calls(None)),
        ("discriminator_optimizer", "installed class"),
    ],
)
def test_checkpoint_names_classes_of_modules_only(place, call, altered, victim):
    own = {"generator": "network", "discriminator_optimizer": "optimizer"}.get(place, "loss")
    value = {"class_path": f"evil_names.{own}", "init_args": {"path": str(victim)}}
    value = value if call == "own function" else calls(victim)[call]
    arguments = {place: {"a": [value]} if place == "anything" else value}
    path = altered(lambda content: content["hyper_parameters"].update(arguments))
    assert_refused(path, value["class_path"])


@pytest.mark.slow
def test_commands_call_nothing(altered, victim, finished, monkeypatch, tmp_path, capsys):
    """What the tests above show of the functions, of all commands: one line that names the file, nothing written."""
    value = {"class_path": RUN, "init_args": {"command": f"touch {victim}"}}
    path = altered(lambda content: content["hyper_parameters"].update(discriminator_optimizer=value))
    config = ("--config", finished / "config.yaml", "--ckpt_path", path)
    for arguments in (
        ("generate", path, "--output", tmp_path / "images"),
        ("evaluate", path, "--output", tmp_path / "scores.json"),
        *((subcommand, *config) for subcommand in ("validate", "test", "predict")),
        ("fit", *config, "--run_dir", tmp_path / "run"),
    ):
        before = sorted(tmp_path.iterdir())
        assert pcgan(monkeypatch, *arguments) == 1, arguments
        assert path.name in one_error(capsys)
        assert sorted(tmp_path.iterdir()) == before


def test_loading_with_lightnings_arguments(finished, tmp_path):
    """Open files, other arguments, a file of arguments: as Lightning has it."""
    checkpoint = finished / "checkpoints" / "last.ckpt"
    whole = GAN.load_from_checkpoint(checkpoint)
    with checkpoint.open("rb") as file:
        again = GAN.load_from_checkpoint(file, map_location="cpu", strict=True, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert GAN.load_from_checkpoint(str(checkpoint), discriminator_steps=3).discriminator_steps == 3
    path = tmp_path / "hparams.yaml"
    path.write_text("_instantiator: os.system\n")
    with pytest.raises(ValueError, match="`_instantiator`"):
        GAN.load_from_checkpoint(checkpoint, hparams_file=path)


def test_pickle_that_calls(victim, tmp_path):
    """As a plain pickle, and within a checkpoint."""

    class Attack:
        def __reduce__(self):
            return eval, (f"open({str(victim)!r}, 'w')",)

    path = tmp_path / "pickle.ckpt"
    path.write_bytes(pickle.dumps(Attack()))
    assert_refused(path, "damaged")
    torch.save({"state_dict": {"generator.weight": Attack()}}, path)
    assert_refused(path, "not read for safety")


def test_truncated_checkpoints(finished, tmp_path):
    """Cut at fifty places, all are refused in one line."""
    whole = (finished / "checkpoints" / "last.ckpt").read_bytes()
    source = random.Random(0)
    path = tmp_path / "cut.ckpt"
    for _ in range(50):
        path.write_bytes(whole[: source.randrange(len(whole))])
        with pytest.raises(ValueError, match=r"a whole checkpoint, got .*cut\.ckpt, which is damaged: ") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


def test_flipped_bits(finished, tmp_path):
    """Fifty times one bit: refused, or nothing but bytes that mean nothing, and the content is the same."""
    original = finished / "checkpoints" / "last.ckpt"
    whole = original.read_bytes()
    expected = read_checkpoint(original)
    source = random.Random(0)
    path = tmp_path / "flipped.ckpt"
    refused = 0
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        message = refusal(path)
        refused += message is not None
        if message is None:
            assert_same(read_checkpoint(path), expected)
        else:
            assert "flipped.ckpt" in message
            assert "\n" not in message
    assert refused > 10


def refusal(path):
    """Return the message with which a checkpoint is refused, or None."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None
