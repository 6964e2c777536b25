"""Where metrics go besides metrics.jsonl: TensorBoard's event files, and Weights & Biases."""

import importlib.util
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from delt_jax.errors import UserError
from delt_jax.store import files

_PROJECT = "delt_jax"  # at Weights & Biases, where WANDB_PROJECT names no other
_UNFINISHED = ".partial"
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class MetricPoint(NamedTuple):
    """What a stage knew at a step.

    Attributes:
      number: of points of the run before it.
      time: when it was logged, in seconds since 1970.
      stage: that logged it.
      step: epochs, iterations or images that were done.
      values: by name, what JSON can hold.
    """

    number: int
    time: float
    stage: str
    step: int
    values: Mapping[str, Any]


class MetricsWriter(Protocol):
    """A place that metrics are written to, point after point."""

    def write(self, point: MetricPoint) -> None:
        """Writes a point; one that it has already, by its number, changes nothing visible."""

    def close(self, failed: bool) -> None:
        """Writes what is left.

        Args:
          failed: whether the run ends early, by a signal or an error.
        """


def check(names: Sequence[str]) -> None:
    """Raises a UserError if a writer's package is not installed; imports none of them."""
    for name in names:
        package = _PACKAGES.get(name)
        if package is not None and not _is_installed(package):
            raise UserError(
                f"writers has {name!r}, but {package} is not installed: pip install "
                f"'delt_jax[{name}]'."
            )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is there, but was not imported as others are
        return True


def scalars(point: MetricPoint) -> dict[str, float]:
    """The numbers of a point by names that tell stages, batches and students apart.

    >>> scalars(MetricPoint(0, 0.0, "recover", 50, {"batches": [0, 1], "loss": 2.5}))
    {'recover/batches-0-1/loss': 2.5}
    """
    values = dict(point.values)
    whose = [name(values.pop(key)) for key, name in _WHOSE.items() if key in values]
    start = "/".join([point.stage, *(["-".join(whose)] if whose else [])])
    return {
        f"{start}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _of_batches(indices: Sequence[int]) -> str:
    return f"batches-{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"batch-{indices[0]}"


# Values that say whose the others are, and how.
_WHOSE: dict[str, Callable[[Any], str]] = {
    "model": str,
    "batches": _of_batches,
    "student": str,
    "regime": str,
    "images": str,
    "ipc": lambda count: f"ipc{count or 'all'}",
    "learning_rate": lambda rate: f"rate{rate:g}",
    "seed": lambda seed: f"seed{seed}",
}


class TensorBoard:
    """Event files in FOLDER/tensorboard, each as old as the run that began it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], before: Sequence[MetricPoint]):
        """Writes what was logged before there were event files.

        Raises:
          UserError: if the disk cannot be written.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._make, self._event, self._summary = EventsWriter, event_pb2.Event, summary_pb2.Summary
        self._folder = folder / "tensorboard"
        self._file: Any = None
        with files.disk_errors_as_user_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            for path in self._folder.glob(f"*{_UNFINISHED}"):
                path.unlink()
            if before and not any(self._folder.glob("*.tfevents.*")):
                self._write_as_a_whole(before)

    def _write_as_a_whole(self, points: Sequence[MetricPoint]) -> None:
        """Writes a file that appears once it has all of the points."""
        self._file = self._open(_UNFINISHED)
        for point in points:
            self._add(point)
        self._file.close()
        self._file = None
        (made,) = self._folder.glob(f"*{_UNFINISHED}")
        made.rename(made.with_name(made.name.removesuffix(_UNFINISHED)))

    def _open(self, ending: str = "") -> Any:
        """A new file; two of one second have different names."""
        return self._make(str(self._folder / "events"), f".{time.time_ns()}{ending}")

    def _add(self, point: MetricPoint) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in scalars(point).items()
        ]
        summary = self._summary(value=values)
        self._file.write_event(self._event(wall_time=point.time, step=point.step, summary=summary))

    def write(self, point: MetricPoint) -> None:
        """Adds a point, which is on disk before this returns."""
        if not scalars(point):
            return
        with files.disk_errors_as_user_errors(self._folder):
            if self._file is None:
                self._file = self._open()
            self._add(point)
            self._file.flush()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        if self._file is not None:
            with files.disk_errors_as_user_errors(self._folder):
                self._file.close()


class WeightsAndBiases:
    """A run at Weights & Biases, which the same work directory goes on with.

    W&B's own variables say where to: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_MODE=offline
    and so on.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], before: Sequence[MetricPoint]):
        """Begins the run or goes on with it, and gives a new one what was logged before.

        Raises:
          UserError: if W&B does not let it, or the disk cannot be written.
        """
        import wandb

        place = folder / "wandb" / "delt_jax.json"
        known = self._known_id(place)
        with files.disk_errors_as_user_errors(place):
            place.parent.mkdir(exist_ok=True)
        run_id = os.environ.get("WANDB_RUN_ID") or known or secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                name=os.environ.get("WANDB_NAME") or folder.name,
                id=run_id,
                resume="allow",
                dir=os.environ.get("WANDB_DIR") or folder,
                config=dict(settings),
                reinit="create_new",  # beside a run of the program's own
                settings=wandb.Settings(console="off"),  # stdout stays as it is
            )
        except Exception as e:  # of many types, W&B's own among them
            reason = " ".join(str(e).split()).rstrip(".")
            raise UserError(
                f"Weights & Biases does not begin a run ({reason}); run `wandb login`, or set "
                f"WANDB_MODE=offline."
            ) from e
        self._plotted: set[str] = set()
        if known is None:
            for point in before:
                self.write(point)
            files.write_json(place, {"id": run_id})

    @staticmethod
    def _known_id(place: Path) -> str | None:
        try:
            found = files.read_object(place).get("id")
        except (OSError, ValueError):
            return None
        return found if isinstance(found, str) else None

    def write(self, point: MetricPoint) -> None:
        """Gives a point to W&B's process, with its stage's step as the axis to plot it over.

        Its number is W&B's own step, so that one that W&B has already is not added again.
        """
        values = scalars(point)
        if not values:
            return
        axis = f"{point.stage}/step"
        for name in values.keys() - self._plotted:
            self._run.define_metric(name, step_metric=axis)
        self._plotted |= values.keys()
        self._run.log({**values, axis: point.step}, step=point.number)

    def close(self, failed: bool) -> None:
        """Waits until W&B has everything."""
        self._run.finish(exit_code=int(failed))


Maker = Callable[[Path, Mapping[str, Any], Sequence[MetricPoint]], MetricsWriter]
WRITERS: dict[str, Maker] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
