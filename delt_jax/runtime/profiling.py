"""A jax.profiler trace of some compiled calls, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from delt_jax.core.progress import say
from delt_jax.store import files


class Profile:
    """Traces a number of calls after the first, which compiles; zero traces none."""

    def __init__(self, folder: Path, calls: int):
        """Will write to `folder`."""
        self._folder, self._calls, self._seen = folder, calls, 0

    def after_call(self, result: Any) -> None:
        """Counts a call; starts or stops the trace when it is time."""
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
        """Ends a trace that is under way."""
        if self._calls and self._seen:
            self._calls = 0
            with files.disk_errors_as_user_errors(self._folder):
                jax.profiler.stop_trace()
            say(f"  profile: {self._folder}")
