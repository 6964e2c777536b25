"""A run's mirror: follows after every stage, and stops no run where its store is out of reach."""

from pathlib import Path
from typing import NamedTuple

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.store import mirror


class Mirror(NamedTuple):
    """A work directory and the URL of its mirror; an empty one stands for none."""

    folder: Path
    url: str

    def check(self) -> None:
        """Raises a UserError unless the place can be read, and is this run's mirror or empty."""
        if self.url:
            mirror.check(self.folder, self.url)

    def follow(self) -> None:
        """Copies what a stage has made; where that fails, it says so and the run goes on."""
        try:
            self.finish()
        except UserError as e:
            say(f"  {e}")

    def finish(self) -> None:
        """Copies what is missing.

        Raises:
          UserError: if the store cannot be reached; nothing of the work is lost.
        """
        if not self.url:
            return
        try:
            copied = mirror.copy(self.folder, self.url)
        except UserError as e:
            raise UserError(
                f"{str(e).rstrip('.')}; the work is kept in {self.folder}, and the next run copies "
                f"what is missing."
            ) from e
        if copied:
            say(f"  mirror: copied {copied} file{'s' * (copied > 1)} to {self.url}")
