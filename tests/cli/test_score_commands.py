"""pcgan evaluate, pcgan report, and scores of a fit."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from helpers.command import one_error, pcgan

from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.data import ImageDataModule, to_uint8
from pcgan_lightning.metrics import ClassifierFeatures, GenerativeScores, reference_statistics, score_generator

pytestmark = pytest.mark.slow

SCORES = "[fid,score,precision_recall]"  # KID wants more images than a test has time for


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PCGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the quickstart with scores."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PCGAN_CACHE", str(folder.parent / "cache"))
        fit = (
            *("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--run_dir", folder, "--trainer.max_steps=4"),
            *("--data.batch_size=4", "--model.generator.width=2", "--model.discriminator.width=2"),
            *("--model.generator.initialization=xavier_uniform", "--trainer.log_every_n_steps=2"),
            *("--scores=ScoreLogger", "--scores.features=ClassifierFeatures", "--scores.count=200"),
            *("--scores.every_n_steps=2", f"--scores.scores={SCORES}", "--trainer.enable_model_summary=false"),
        )
        assert pcgan(monkeypatch, *fit) == 0
    return folder


def evaluate(monkeypatch, checkpoint, *more):
    common = ("--features=ClassifierFeatures", f"--scores={SCORES}")
    return pcgan(monkeypatch, "evaluate", checkpoint, "--count=200", *common, *more)  # the last of a kind wins


def test_scores_of_a_fit(run):
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric/classifier_fid"]]
    assert [int(float(row["step"])) for row in rows] == [2, 4]
    assert "metric/fid" not in rows[0], "a classifier's scores are never called FID"
    saved = json.loads((run / "evaluations" / "iteration_0000004_classifier_train.json").read_text())
    assert float(rows[-1]["metric/classifier_fid"]) == saved["scores"]["classifier_fid"]
    assert "classifier with" in saved["protocol"]


def test_two_processes_score_like_one(monkeypatch, cache, tmp_path):
    """The scores that two processes logged are those that one finds in their checkpoint."""
    folder = tmp_path / "run"
    fit = (
        *("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--run_dir", folder, "--trainer.max_steps=2"),
        *("--data.batch_size=4", "--model.generator.width=2", "--model.discriminator.width=2"),
        *("--model.generator.initialization=xavier_uniform", "--trainer.enable_model_summary=false"),
        *("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true"),
        *("--scores=ScoreLogger", "--scores.features=ClassifierFeatures", "--scores.count=201"),
        *("--scores.every_n_steps=2", f"--scores.scores={SCORES}"),
    )
    program = [sys.executable, "-m", "pcgan_lightning.cli", *map(str, fit)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    together = json.loads((folder / "evaluations" / "iteration_0000002_classifier_train.json").read_text())["scores"]
    assert evaluate(monkeypatch, folder / "checkpoints" / "last.ckpt", "--count=201") == 0
    alone = json.loads((folder / "evaluations" / "last_classifier_train.json").read_text())["scores"]
    # Batches of another size: rounding can move a pixel by one level. With running statistics of its own in each
    # process the difference is five times this.
    assert together == {name: pytest.approx(value, rel=5e-5) for name, value in alone.items()}
    assert len((folder / "metrics.csv").read_text().splitlines()) > 1


def test_a_run_says_what_it_ran_on(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0] or environment["versions"]["torch"]
    assert environment["hardware"]
    with (run / "metrics.csv").open() as file:
        speeds = [float(row["iterations_per_second"]) for row in csv.DictReader(file) if row["iterations_per_second"]]
    assert len(speeds) == 2
    assert all(0 < speed < 1e4 for speed in speeds)


@pytest.mark.parametrize("averaged", [True, False])
def test_evaluate(run, monkeypatch, capsys, tmp_path, averaged):
    """The printed and the saved scores are those of the images that `pcgan generate` makes."""
    checkpoint, output = run / "checkpoints" / "last.ckpt", tmp_path / "scores.json"
    assert evaluate(monkeypatch, checkpoint, f"--averaged={averaged}", "--seed=3", "--output", output) == 0
    printed = capsys.readouterr()
    features = ClassifierFeatures()
    metric = GenerativeScores(
        features, reference_statistics(ImageDataModule().real_images(), features), scores=["fid", "score"]
    )
    gan, _ = load_gan(checkpoint)
    images = to_uint8(gan.sample_images(gan.fixed_latents(200, 3), averaged=averaged))
    expected = score_generator(metric, lambda numbers: images[numbers.start : numbers.stop], 200)
    saved = json.loads(output.read_text())
    for name, value in expected.items():
        assert saved["scores"][name] == pytest.approx(value, rel=1e-3)
        assert f"{saved['scores'][name]:.6g}" in printed.out
    assert "classifier fid" in printed.out
    assert "\nfid" not in printed.out
    assert saved["protocol"] in printed.out
    assert "200 generated images against 1,797 of digits (split train, 32x32)" in saved["protocol"]
    assert ("moving average" in saved["protocol"]) == averaged
    assert "generated images" in printed.err or "generated images" in printed.out  # the bar
    assert saved["iteration"] == 4


def test_no_evaluation_replaces_another(run, monkeypatch):
    for seed in (1, 2):
        assert evaluate(monkeypatch, run / "checkpoints" / "last.ckpt", f"--seed={seed}", "--scores=fid") == 0
    protocols = [json.loads(path.read_text())["protocol"] for path in (run / "evaluations").glob("last_*.json")]
    assert all(sum(f"latents of seed {seed}" in protocol for protocol in protocols) == 1 for seed in (1, 2))


def test_evaluate_takes_the_data_of_the_last_continuation(run, monkeypatch, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = (run / "config.yaml").read_text().replace("max_images: null", "max_images: 500")
    for number in (2, 10, 3):  # in whatever order the files were made, or copied
        (tmp_path / "run" / f"config_{number}.yaml").write_text(config if number == 10 else "data: null")
    assert evaluate(monkeypatch, tmp_path / "run" / "checkpoints" / "last.ckpt") == 0
    assert "against 500 of digits" in capsys.readouterr().out


def test_evaluate_with_other_data(run, monkeypatch, tmp_path, capsys):
    """A checkpoint alone, moved out of its run."""
    checkpoint = tmp_path / "alone.ckpt"
    checkpoint.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    assert evaluate(monkeypatch, checkpoint) == 1
    assert "`data` must name the real images" in one_error(capsys)
    data = ("--data=ImageDataModule", "--data.validation_split=test", "--part=validation")
    assert evaluate(monkeypatch, checkpoint, *data) == 0
    assert "against 297 of digits (split test" in capsys.readouterr().out


def test_real_statistics_are_computed_once(run, monkeypatch, cache, capsys):
    for _ in range(2):
        assert evaluate(monkeypatch, run / "checkpoints" / "last.ckpt") == 0
    assert len(list(cache.iterdir())) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("features of real images") == 1


def without_generator(run, folder):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if k.startswith("discriminator")}
    torch.save(content, folder / "discriminator.ckpt")
    return folder / "discriminator.ckpt"


MISTAKES = {
    "no checkpoint": (lambda run, folder: folder / "no.ckpt", [], "`checkpoint` must be a whole checkpoint file, got"),
    "no generator": (without_generator, [], "discriminator.ckpt, which holds no generator"),
    "too few": (
        None,
        ["--count=150"],
        "`count` must give at least 193 generated images (the number of features, for FID)",
    ),
    "too few for KID": (None, ["--count=500", "--scores=[kid]"], "`count` must give at least 1,000 generated images"),
    "too few real": (None, ["--real_count=100"], "`real_count` must give at least 193 real images"),
    "no images": (None, ["--count=0"], "`count` must be at least 1, got 0"),
    "unknown score": (None, ["--scores=[is]"], "scores"),
    "missing weights": (
        None,
        ["--features.weights=nowhere.safetensors"],
        "`weights` must be a file of classifier weights, got nowhere.safetensors, which does not exist; put there what",
    ),
    "missing Inception": (
        None,
        ["--features=InceptionFeatures", "--features.weights=nowhere.pth"],
        "`weights` must be a file of Inception weights, got nowhere.pth, which does not exist; download https://",
    ),
    "no validation split": (None, ["--part=validation"], "`validation_split` must name a split"),
    "another size": (
        None,
        ["--data=ImageDataModule", "--data.image_size=16"],
        "`data` must have images like the generator's, (1, 32, 32), got (1, 16, 16)",
    ),
    "no such device": (None, ["--device=cuda:99"], "`device` must be"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gets_one_line(mistake, run, monkeypatch, tmp_path, capsys):
    checkpoint, arguments, message = MISTAKES[mistake]
    path = checkpoint(run, tmp_path) if checkpoint else run / "checkpoints" / "last.ckpt"
    assert evaluate(monkeypatch, path, *arguments) == 1
    assert message in one_error(capsys)


def test_fit_refuses_what_it_cannot_score(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"
    fit = (
        *("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--run_dir", folder, "--trainer.max_steps=2"),
        *("--scores=ScoreLogger", "--scores.features=ClassifierFeatures", "--scores.count=100"),
    )
    assert pcgan(monkeypatch, *fit) == 1
    assert "`count` must give at least 193 generated images" in one_error(capsys)
    assert not (folder / "config.yaml").exists()
    assert not (folder / "metrics.csv").exists(), "a run that never began must not claim its folder"


def test_report(run, monkeypatch, tmp_path, capsys):
    assert pcgan(monkeypatch, "report", run, "--output", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert "classifier FID" in page
    assert pcgan(monkeypatch, "report", tmp_path / "nowhere") == 1
    assert "`runs` must be run folders" in one_error(capsys)
