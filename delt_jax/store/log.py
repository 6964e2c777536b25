"""Metrics over time: a line of JSON each, and TensorBoard events on request."""

import json
import os
import time
from pathlib import Path
from typing import Any

from delt_jax.errors import UserError
from delt_jax.store import files, regular


class MetricsLog:
    """Appends to FOLDER/metrics.jsonl; does nothing if the folder is None."""

    def __init__(self, folder: Path | None, tensorboard: bool = False):
        """Opens the log for appending.

        Raises:
          UserError: if TensorBoard is asked for and its extra is not installed, or the disk
            cannot be written.
        """
        self._file: Any = None
        self._writer: Any = None
        if folder is None:
            return
        if tensorboard:
            try:
                import tensorboardX
            except ImportError as e:
                raise UserError(
                    "tensorboard=True needs the extra: pip install 'delt_jax[tensorboard]'."
                ) from e
            with files.disk_errors_as_user_errors(folder):
                self._writer = tensorboardX.SummaryWriter(str(folder / "tensorboard"))
        self._path = folder / "metrics.jsonl"
        with files.disk_errors_as_user_errors(self._path):
            whole = not self._path.exists() or not self._path.stat().st_size
            if not whole:
                with regular.open_file(self._path) as f:
                    whole = f.read().endswith(b"\n")
            self._file = open(  # noqa: SIM115 (open as long as the run)
                self._path, "a", encoding="utf-8", opener=_at_once
            )
            if not whole:  # a killed run can leave half a line
                self._file.write("\n")

    def write(self, stage: str, step: int, **values: Any) -> None:
        """Adds one line; numbers also go to TensorBoard, as STAGE/NAME."""
        if self._file is None:
            return
        line = {"time": round(time.time(), 3), "stage": stage, "step": step, **values}
        with files.disk_errors_as_user_errors(self._path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            with files.disk_errors_as_user_errors(self._path):
                self._file.close()
        if self._writer is not None:
            self._writer.close()


def _at_once(path: str, flags: int) -> int:
    """Opens a file, or raises an OSError where it is a pipe that nobody reads."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
