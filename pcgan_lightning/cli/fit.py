"""`pcgan fit` and Lightning's other subcommands: the run folder, and the callbacks that every run has."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from typing_extensions import override

from pcgan_lightning.callbacks import (
    CollapseMonitor,
    GANProgressBar,
    NonFiniteGuard,
    Preconditioning,
    RunCheckpoint,
    RunRecord,
    SampleGridLogger,
    ScoreLogger,
    SpectrumLogger,
    StopOnSignal,
)
from pcgan_lightning.cli.continuing import check_checkpoint, checkpoints_in, compare_with, settings_of
from pcgan_lightning.cli.help import show_help
from pcgan_lightning.cli.loggers import send_logs_to
from pcgan_lightning.modules import check_strategy
from pcgan_lightning.runs import (
    CONFIG_FILE,
    LAST_CHECKPOINT,
    METRICS_FILE,
    SETTINGS,
    WANDB_ID_FILE,
    RunCSVLogger,
    check_classes,
    check_no_run,
    check_records,
    check_unused,
    check_writable,
    claimed,
    last_checkpoint,
    read_numbers,
    unused_path,
    write_config,
    write_whole,
)

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4, "betas": [0.0, 0.9]}}
DEFAULTS = {
    "model": {
        "class_path": "GAN",
        "init_args": {
            "loss": {"class_path": "HingeLoss"},
            "generator_optimizer": ADAM,
            "discriminator_optimizer": ADAM,
        },
    },
    "data": {"class_path": "ImageDataModule"},
    "checkpoint.every_n_train_steps": 1000,
    "checkpoint.filename": "iteration_{step:07d}",
    "checkpoint.auto_insert_metric_name": False,
    # A resumed run comes to the same names again, with the same content.
    "checkpoint.enable_version_counter": False,
}


class PCGANCLI(LightningCLI):
    """LightningCLI with a run folder and the package's callbacks as top-level keys.

    ``run_dir`` is where a fit leaves everything: the resolved ``config.yaml``, ``metrics.csv``, ``checkpoints/``,
    ``samples/``, ``spectra/``. A folder that holds a run is refused, unless that run is continued with
    ``--ckpt_path last`` or a checkpoint of the folder. ``last`` is the latest checkpoint that is whole; a fit without
    any starts from the beginning.
    """

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as self._claim:  # until everything is done
            super().__init__(*args, **kwargs)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        # Only the one that is called, since each parser takes its time to be built.
        known, called = LightningCLI.subcommands(), "".join(sys.argv[1:2])
        return {called: known[called]} if called in known else known

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # The guard comes before the callbacks that measure.
        parser.add_argument("--run_dir", type=str, default="runs/pcgan", help="Folder of everything a fit writes.")
        parser.add_lightning_class_args(NonFiniteGuard, "guard")
        parser.add_lightning_class_args(CollapseMonitor, "collapse")
        parser.add_subclass_arguments(Preconditioning, "preconditioning", required=False, fail_untyped=False)
        parser.callback_keys.append("preconditioning")
        parser.add_subclass_arguments(ScoreLogger, "scores", required=False)
        parser.callback_keys.append("scores")
        parser.add_lightning_class_args(SpectrumLogger, "spectrum")
        parser.add_lightning_class_args(SampleGridLogger, "samples")
        parser.add_lightning_class_args(GANProgressBar, "progress")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a damaged checkpoint and functions in the place of classes before anything is built."""
        show_help(self._subcommand_parsers)
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_classes(config)
        _check_numbers(config)
        if config.get("ckpt_path") not in (None, "", "last"):
            check_checkpoint(Path(config.ckpt_path), self.config.subcommand)

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning lets a checkpoint's hyperparameters replace the configuration. A fit is what was asked for, and the
        # module refuses a checkpoint that does not fit; an evaluation needs no configuration beside its checkpoint.
        # A file called "last" is nothing that was asked for, nor checked.
        if self.config.subcommand != "fit" and self.config[self.config.subcommand].get("ckpt_path") != "last":
            super()._parse_ckpt_path()

    @override
    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and refuse one that is taken, before anything is built."""
        config = self.config[self.subcommand]
        # The saved configuration is what was asked for, so that it serves for another run folder as well.
        self.save_config_kwargs = {"requested": config.clone()}
        folder, checkpoint = Path(config.run_dir), config.get("ckpt_path")
        fit = self.subcommand == "fit"
        if fit and not config.trainer.fast_dev_run:
            check_writable(folder)
        self._checkpoints = checkpoints_in(folder)
        continues = checkpoint == "last"
        if continues:
            elsewhere = config.checkpoint.dirpath
            checkpoint = last_checkpoint(folder, None if elsewhere is None else Path(elsewhere))
            if checkpoint is None:
                if not fit:
                    raise FileNotFoundError(f"argument `ckpt_path` 'last' needs a checkpoint in {folder}, found none")
                rank_zero_info(f"{folder} holds no checkpoint yet: the run starts from the beginning")
            else:
                check_checkpoint(checkpoint, str(self.subcommand))
            config.ckpt_path = None if checkpoint is None else str(checkpoint)
        elif checkpoint:
            continues = folder.resolve() in Path(checkpoint).resolve().parents
        if fit:
            self._continues = continues
            if continues:
                check_records(folder, "argument `run_dir` must hold readable files")
                read_numbers(folder / METRICS_FILE)
            else:
                check_unused(folder)
            if checkpoint:
                compare_with(Path(checkpoint), self._parser("fit"), self.save_config_kwargs["requested"])
            config.trainer.default_root_dir = str(folder)
            send_logs_to(folder, config.trainer, Path(checkpoint) if continues and checkpoint else None)
        elif config.trainer.logger is None:
            config.trainer.logger = False

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        configured = {key: self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys}
        if self.subcommand != "fit":
            configured = {"preconditioning": configured["preconditioning"]}
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if trainer_config.get("enable_progress_bar") is False or trainer_config.get("barebones"):
            configured.pop("progress", None)
        if trainer_config.get("enable_checkpointing") is False:
            configured.pop("checkpoint", None)
        chosen = [c for c in configured.values() if c is not None]
        if self.subcommand == "fit":
            chosen += [RunRecord(), StopOnSignal(advice="continue with --ckpt_path last")]
        return self._instantiate_trainer(trainer_config, chosen)

    def before_fit(self) -> None:
        """Let the first process claim the run folder for all, after all that may be refused without a trace."""
        check_strategy(self.trainer)
        config = self.config[self.subcommand]
        if config.trainer.fast_dev_run or getattr(rank_zero_only, "rank", 0) != 0:
            return
        folder = Path(config.run_dir)
        self._claim.enter_context(claimed(folder))
        if checkpoints_in(folder) != self._checkpoints:
            raise BlockingIOError(
                f"argument `run_dir` must be a folder that no other run writes to, got {folder}, where one has just "
                "saved a checkpoint; start again"
            )
        if not self._continues:  # loggers of others may have made folders there by now
            check_no_run(folder)

    def after_fit(self) -> None:
        """Save the final state, whatever the interval of checkpoints."""
        trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it later
        if not trial and self.trainer.checkpoint_callback is not None:
            path = Path(self.trainer.default_root_dir) / LAST_CHECKPOINT
            self.trainer.save_checkpoint(path, weights_only=False)


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration in the run folder and hand it to the loggers; a continued run keeps both.

    Args:
        parser: the parser of the subcommand.
        config: the configuration with all loggers and folders in place; not saved.
        requested: the configuration as it was asked for.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, requested: Namespace) -> None:
        super().__init__(parser, requested)
        self._settings = ""  # written out once, which takes longer than the rest of a small checkpoint

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: what fails before training must not claim the folder."""

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what a run that goes on is compared with, but for what is about the call alone."""
        self._settings = self._settings or settings_of(self.parser, self.config)
        checkpoint[SETTINGS] = self._settings

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # All in one file, whatever pieces it was composed from.
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it later
        if trainer.is_global_zero and not trial:
            folder = Path(trainer.default_root_dir)
            write_config(unused_path(folder / CONFIG_FILE), self.parser.dump(self.config, skip_none=False))
            self.save_config(trainer, pl_module, "fit")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    write_whole(folder / WANDB_ID_FILE, f"{logger.version}\n")

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the configuration to the loggers as hyperparameters."""
        for logger in trainer.loggers:
            if not isinstance(logger, RunCSVLogger):  # the folder has it already
                logger.log_hyperparams({"config": self.parser.dump(self.config, skip_none=False)})


def _check_numbers(config: Namespace) -> None:
    """Refuse what Lightning takes without a word, or refuses without its name."""
    if config.trainer.max_steps == 0 or config.trainer.max_steps < -1:
        raise ValueError(f"argument `max_steps` must be positive, or -1 for no limit, got {config.trainer.max_steps}")
    seed = config.seed_everything
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"argument `seed_everything` must be in 0..{2**32 - 1}, got {seed}")
