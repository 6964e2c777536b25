"""Metrics over time: every point is a line of metrics.jsonl, and goes to the writers asked for.

Stages log a point before they save the work that it tells of. After a kill they do some work again,
which gives the same points again; those that are there already are not written twice.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delt_jax.store import files, metric_writers, regular
from delt_jax.store.metric_writers import MetricPoint, MetricsWriter


class MetricsLog:
    """What stages log to; does nothing if the folder is None."""

    def __init__(
        self,
        folder: Path | None,
        writers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ):
        """Opens the log for appending, and gives new writers what earlier runs have logged.

        Args:
          folder: of the run.
          writers: names of writers beside metrics.jsonl, as `writers` has them.
          settings: of the run, by dotted name.

        Raises:
          UserError: if a writer's package is missing or cannot start, or the disk cannot be
            written.
        """
        self._lines: JsonLines | None = None
        self._others: list[MetricsWriter] = []
        if folder is None:
            return
        metric_writers.check(writers)
        self._lines = JsonLines(folder / "metrics.jsonl")
        before = self._lines.before
        self._number = len(before)
        self._known = {_digest(point) for point in before}
        try:
            for name in writers:
                if name in metric_writers.WRITERS:
                    make = metric_writers.WRITERS[name]
                    self._others.append(make(folder, settings or {}, before))
        except BaseException:
            self.close(failed=True)
            raise

    def write(self, stage: str, step: int, **values: Any) -> None:
        """Adds a point, unless the same one is there already.

        Args:
          stage: that logs it.
          step: epochs, iterations or images that are done.
          **values: what JSON can hold. Numbers are plotted; some texts say whose they are.
        """
        if self._lines is None:
            return
        point = MetricPoint(self._number, round(time.time(), 3), stage, step, values)
        digest = _digest(point)
        if digest in self._known:
            return
        for writer in (*self._others, self._lines):  # a line says that the others have the point
            writer.write(point)
        self._known.add(digest)
        self._number += 1

    def close(self, failed: bool = False) -> None:
        """Writes what is left and closes the files.

        Args:
          failed: whether the run ends early, by a signal or an error.
        """
        for writer in (*self._others, *([self._lines] if self._lines is not None else [])):
            writer.close(failed)


class JsonLines:
    """A file of points, a line of JSON each.

    Attributes:
      before: the points that are in it at first.
    """

    def __init__(self, path: Path):
        """Opens the file for appending, and reads what is there.

        Raises:
          UserError: if the disk cannot be written.
        """
        self._path = path
        with files.disk_errors_as_user_errors(path):
            content = b""
            if path.exists() and path.stat().st_size:
                with regular.open_file(path) as f:
                    content = f.read()
            self._file = open(  # noqa: SIM115 (open as long as the run)
                path, "a", encoding="utf-8", opener=_at_once
            )
            if content and not content.endswith(b"\n"):  # a killed run can leave half a line
                self._file.write("\n")
        read = map(_parsed, content.split(b"\n"))  # names may hold other ends of lines
        points = [point for point in read if point is not None]
        self.before = [point._replace(number=i) for i, point in enumerate(points)]

    def write(self, point: MetricPoint) -> None:
        """Adds a line, which is on disk before this returns."""
        with files.disk_errors_as_user_errors(self._path):
            self._file.write(json.dumps(_as_line(point), ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        with files.disk_errors_as_user_errors(self._path):
            self._file.close()


def _as_line(point: MetricPoint) -> dict[str, Any]:
    return {"time": point.time, "stage": point.stage, "step": point.step, **point.values}


def _parsed(line: bytes) -> MetricPoint | None:
    """A point of the file; None for a line that a kill has torn or somebody has changed."""
    try:
        held = json.loads(line)
        moment, stage, step = held.pop("time"), held.pop("stage"), held.pop("step")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    known = isinstance(moment, float | int) and isinstance(stage, str) and isinstance(step, int)
    return MetricPoint(0, moment, stage, step, held) if known else None


def _digest(point: MetricPoint) -> bytes:
    """What two equal points share, whenever they were logged."""
    line = json.dumps([point.stage, point.step, point.values], sort_keys=True)
    return hashlib.blake2b(line.encode(), digest_size=16).digest()


def _at_once(path: str, flags: int) -> int:
    """Opens a file, or raises an OSError where it is a pipe that nobody reads."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
