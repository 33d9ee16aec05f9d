"""The logger of a run folder's ``metrics.csv``: one whole series, however often the run was interrupted."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from typing_extensions import override

from pcgan_lightning.runs.folder import METRICS_FILE
from pcgan_lightning.runs.metrics_csv import read_rows
from pcgan_lightning.runs.writing import write_whole


class RunCSVLogger(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right into the run folder and continuing one that is there.

    The file is whole at every moment: rows are appended, and where a new column makes the file be written again, that
    happens beside it. A last line that a killed process left unfinished is dropped. Rows of an earlier part of the run
    stay only as far as :meth:`continue_from` says.

    Args:
        save_dir: the run folder.
    """

    _experiment: Optional["_RunWriter"]

    def __init__(self, save_dir: str) -> None:
        # Each row is on disk before the next checkpoint is, or a killed run would resume with a gap.
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> "_RunWriter":
        if self._experiment is None:
            self._experiment = _RunWriter(log_dir=self.log_dir)
        return self._experiment

    def continue_from(self, step: int) -> None:
        """Keep the rows of an earlier part of the run up to `step`, which its checkpoint holds; none by default.

        To be called before anything is logged.
        """
        self.experiment.continue_from(step)

    def to_disk(self) -> None:
        """Wait until all rows are on the disk itself."""
        self.experiment.to_disk()


class _RunWriter(ExperimentWriter):
    """Writes rows behind those that are kept."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir=log_dir)
        self._path = Path(log_dir) / METRICS_FILE
        self._kept_until: Optional[int] = None
        self._size: Optional[int] = None  # of what is known to be whole in the file; None before the first row

    @override
    def _check_log_dir_exists(self) -> None:
        # Lightning's writer would delete the file here.
        pass

    def continue_from(self, step: int) -> None:
        self._kept_until = step

    def to_disk(self) -> None:
        if self._size is not None:
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())

    @override
    def log_metrics(self, metrics_dict: Mapping[str, float], step: Optional[int] = None) -> None:
        if metrics_dict:
            # Some releases of Lightning hand over a logged step as a float.
            super().log_metrics(dict(metrics_dict), None if step is None else int(step))

    @override
    def save(self) -> None:
        if not self.metrics:
            return
        new_columns = set().union(*self.metrics) - set(self.metrics_keys)
        if new_columns or self._size is None or not self._path.exists():
            self._rewrite()
        else:
            self._append(self._size)
        self.metrics = []

    def _rewrite(self) -> None:
        former = read_rows(self._path)
        if self._size is None:  # of an earlier part of the run
            limit = self._kept_until
            former = [] if limit is None else [row for row in former if int(float(row["step"])) <= limit]
        rows: list[Mapping[str, Any]] = [*former, *self.metrics]
        columns = sorted({column for row in rows for column in row})
        content = _lines([dict(zip(columns, columns, strict=True)), *rows], columns)
        write_whole(self._path, content)
        self.metrics_keys, self._size = columns, len(content)

    def _append(self, size: int) -> None:
        lines = _lines(self.metrics, self.metrics_keys)
        # Over what a failed attempt may have left behind the last whole line, as on a full disk.
        with self._path.open("rb+") as file:
            file.seek(size)
            file.truncate()
            file.write(lines)
        self._size = size + len(lines)


def _lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()
