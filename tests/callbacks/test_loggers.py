"""SpectrumLogger, SampleGridLogger and the progress bar, on real loggers of all kinds."""

import csv
import struct
import time
from types import SimpleNamespace

import lightning.pytorch
import numpy as np
import pytest
from helpers.foreign_modules import image_loader, make_classifier
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from pcgan_lightning.callbacks import (
    AdaptivePreconditioning,
    FixedPreconditioning,
    GANProgressBar,
    SampleGridLogger,
    SpectrumLogger,
)
from pcgan_lightning.callbacks.loggers import log_picture
from pcgan_lightning.callbacks.monitors.spectrum import summarize_conditions
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator


def tiny_gan():
    return GAN(CNNGenerator(channels=1, latent_dim=4, width=1), CNNDiscriminator(channels=1, width=1))


def all_callbacks():
    return [
        AdaptivePreconditioning(thresholds=(1e-3,), degrees=(1, 3), every_n_steps=2),
        SpectrumLogger(every_n_steps=4, k=2),
        SampleGridLogger(every_n_steps=4, count=5),
    ]


def test_series_are_the_exact_spectrum(fit):
    module = tiny_gan()
    spectrum = SpectrumLogger(every_n_steps=4, k=3)
    seen = {}

    class Reference(lightning.pytorch.Callback):
        """The effective matrix of one layer by numpy, when SpectrumLogger has just measured."""

        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                weight = pl_module.discriminator.convolutions[2].weight
                seen["after"] = np.linalg.svd(weight.detach().flatten(1).double().numpy(), compute_uv=False)
                original = pl_module.discriminator.convolutions[2].parametrizations.weight.original
                seen["raw"] = np.linalg.svd(original.detach().flatten(1).double().numpy(), compute_uv=False)

    fit(module, [FixedPreconditioning(degree=5), spectrum, Reference()], max_steps=6)
    assert spectrum.series["iteration"] == [0, 4, 6]
    entry = spectrum.series["layers"]["convolutions.2"]
    # Weights are float32; singular values carry their rounding.
    np.testing.assert_allclose(entry["largest"][1], seen["after"][:3][: len(entry["largest"][1])], rtol=2e-6)
    np.testing.assert_allclose(entry["smallest"][1], seen["after"][::-1][:3], rtol=1e-5)
    for key, values in (("after", seen["after"]), ("before", seen["raw"])):
        np.testing.assert_allclose(entry[key][1], values[0] / values[-1:].mean(), rtol=1e-5)


def test_summary_over_layers():
    assert summarize_conditions([2.0, 7.0, 3.0]) == {"max": 7.0, "second_max": 3.0, "mean": 4.0}
    assert summarize_conditions([2.0]) == {"max": 2.0, "second_max": 2.0, "mean": 2.0}


def test_csv_gets_numbers_and_the_folder_gets_pictures(tmp_path, fit, drawn):
    fit(tiny_gan(), all_callbacks(), max_steps=6, logger=CSVLogger(tmp_path, name="run", version=""))
    folder = tmp_path / "run"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["condition/max"]]
    assert [int(float(row["step"])) for row in measured] == [0, 4, 6]
    for row in measured:
        after = [float(v) for k, v in row.items() if k.endswith("/after")]
        assert float(row["condition/max"]) == max(after)
        assert float(row["condition/mean"]) == pytest.approx(sum(after) / len(after))
        # Degree 1 or 3 and SN: the largest effective value is about 1.
        assert float(row["singular_value/convolutions.3/largest_1"]) == pytest.approx(1, abs=0.1)
    assert [int(float(row["step"])) for row in rows if row["degree/convolutions.0"]] == [0, 2, 4, 6]
    assert [int(float(row["step"])) for row in rows if row["loss/generator"]] == [1, 2, 3, 4, 5, 6]
    pictures = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    grids = {f"samples/iteration_{n:07d}.png" for n in (0, 4, 6)}
    assert pictures == grids | {"spectra/singular_values.png", "spectra/condition_numbers.png"}
    for path in folder.rglob("spectra/*.png"):
        pixels = np.asarray(Image.open(path))
        assert pixels.std() > 5, "an empty picture"


def test_sample_grid_shows_the_generator(tmp_path, fit):
    gan = tiny_gan()
    fit(gan, [SampleGridLogger(every_n_steps=100, count=4)], max_steps=6)
    grid = np.asarray(Image.open(tmp_path / "samples" / "iteration_0000006.png").convert("L"))
    images = gan.sample_images(gan.fixed_latents(4))
    expected = ((images[3, 0] + 1) * 127.5).round().byte().numpy()
    # 2x2 grid with 2 pixels of padding, enlarged twice to 64 pixels an image.
    np.testing.assert_array_equal(grid[2 * 36 : 2 * 68 : 2, 2 * 36 : 2 * 68 : 2], expected)


def test_tensorboard_gets_scalars_images_and_tables(tmp_path, fit):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tiny_gan(), all_callbacks(), max_steps=6, logger=TensorBoardLogger(tmp_path, name="run", version=""))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("condition/max")] == [0, 4, 6]
    assert [e.step for e in events.Scalars("loss/discriminator")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in events.Images("samples")] == [0, 4, 6]
    assert {"spectra/singular_values", "spectra/condition_numbers"} <= set(events.Tags()["images"])
    table = events.Tensors("spectra/layers/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| layer | degree | sigma_max" in table
    assert "| convolutions.3 |" in table


def wandb_records(path):
    """Read an offline run: a 7-byte file header, then records in the log format of LevelDB (blocks of 32 KiB)."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, position, parts = path.read_bytes(), 7, b""
    while position < len(raw):
        left = 32768 - position % 32768
        if left < 7:  # too short for a header: padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        if position + 7 + length > len(raw):
            return  # not yet written whole
        parts += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last of several
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def finished_wandb_records(path):
    """Wait for the record that ends the run: wandb's own process may still be writing when `finish` returns."""
    for _ in range(200):
        records = list(wandb_records(path))
        if records and records[-1].WhichOneof("record_type") in ("exit", "footer"):
            break
        time.sleep(0.1)
    return records


@pytest.mark.slow
def test_wandb_offline_gets_series_tables_and_images(tmp_path, fit):
    import wandb  # takes a second, which the fast tests need not wait

    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    fit(tiny_gan(), all_callbacks(), max_steps=6, logger=logger)
    wandb.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    history = [
        {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
        for record in finished_wandb_records(path)
        if record.WhichOneof("record_type") == "history"
    ]
    steps = {key: [int(row["trainer/global_step"]) for row in history if key in row] for row in history for key in row}
    assert steps["condition/max"] == [0, 4, 6]
    assert steps["degree/convolutions.0"] == [0, 2, 4, 6]
    assert steps["samples/_type"] == [0, 4, 6]
    assert steps["spectra/layers/_type"] == [0, 4, 6]
    assert steps["spectra/singular_values/_type"] == [6]
    run_folder = path.parent
    assert len(list(run_folder.rglob("media/images/samples_*.png"))) == 3
    assert list(run_folder.rglob("media/table/spectra/layers*.json"))


def test_spectrum_of_a_part_of_a_classifier(tmp_path, fit):
    """Plain layers, automatic optimization."""
    spectrum = SpectrumLogger(every_n_steps=2, target="backbone")
    logger = CSVLogger(tmp_path, name="run", version="")
    fit(make_classifier(lightning.pytorch)(), [spectrum], image_loader(), max_steps=-1, max_epochs=1, logger=logger)
    assert spectrum.series["iteration"] == [0, 2, 4]
    assert spectrum.series["layers"].keys() == {"0"}
    assert (tmp_path / "run" / "spectra" / "condition_numbers.png").exists()


def test_progress_bar_shows_losses_condition_and_speed(fit, capsys):
    bar = GANProgressBar(refresh_every_n_steps=2)
    shown = []

    class Look(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            shown.append(bar.get_metrics(trainer, pl_module))

    fit(tiny_gan(), [SpectrumLogger(), bar, Look()], max_steps=6, enable_progress_bar=True)
    assert shown[-1].keys() == {"loss/discriminator", "loss/generator", "condition/max"}
    printed = capsys.readouterr().out
    assert "6/6" in printed
    assert "it/s" in printed


def test_refresh_interval():
    with pytest.raises(ValueError, match="`refresh_every_n_steps` must be at least 1, got 0"):
        GANProgressBar(refresh_every_n_steps=0)


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    trainer = SimpleNamespace(is_global_zero=True, fast_dev_run=False, loggers=[], default_root_dir=tmp_path)
    monkeypatch.setattr("pcgan_lightning.callbacks.loggers.connected", lambda _: trainer)
    log_picture(trainer, "x", "samples/x.png", Image.new("RGB", (2, 2), "red"))
    with Image.open(tmp_path / "samples" / "x.png") as picture:
        assert (picture.format, picture.getpixel((1, 1))) == ("PNG", (255, 0, 0))
    former = (tmp_path / "samples" / "x.png").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        log_picture(trainer, "x", "samples/x.png", Image.new("RGB", (2, 2), "blue"))
    assert [path.read_bytes() for path in (tmp_path / "samples").iterdir()] == [former]
