"""A jax.profiler trace of a few compiled calls, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from delt_jax.core.progress import say
from delt_jax.store import files


class Profile:
    """Traces `calls` calls after the first one, which compiles; 0 traces none."""

    def __init__(self, folder: Path, calls: int):
        """Sets the folder to write to and how many calls to trace."""
        self._folder, self._calls, self._seen = folder, calls, 0

    def after_call(self, result: Any) -> None:
        """Counts a finished call; starts the trace after the first and stops it after the last."""
        if not self._calls:
            return
        self._seen += 1
        if self._seen == 1:
            jax.block_until_ready(result)
            with files.disk_errors_as_user_errors(self._folder):
                jax.profiler.start_trace(str(self._folder))
        elif self._seen == 1 + self._calls:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends the trace if one is running."""
        if self._calls and self._seen:
            self._calls = 0
            with files.disk_errors_as_user_errors(self._folder):
                jax.profiler.stop_trace()
            say(f"  profile: {self._folder}")
