"""A run's mirror: follows after every stage, and stops no run where its store is out of reach."""

from pathlib import Path
from typing import NamedTuple

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.store import mirror


class Mirror(NamedTuple):
    """A work directory and its mirror.

    Attributes:
      folder: the work directory.
      url: of the mirror; empty for none.
      left_out: names right in the folder that have mirrors of their own.
    """

    folder: Path
    url: str
    left_out: tuple[str, ...] = ()

    def within(self, folder: Path) -> "Mirror":
        """The mirror of a folder below this one."""
        inner = folder.relative_to(self.folder).as_posix()
        return Mirror(folder, self.url and f"{self.url}/{inner}")

    def check(self) -> None:
        """Raises a UserError unless the place can be read, and is this run's mirror or empty."""
        if self.url:
            mirror.check(self.folder, self.url, self.left_out)

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
        if not self.url or not self.folder.is_dir():
            return
        try:
            copied = mirror.copy(self.folder, self.url, self.left_out)
        except UserError as e:
            raise UserError(
                f"{str(e).rstrip('.')}; the work is kept in {self.folder}, and the next run copies "
                f"what is missing."
            ) from e
        if copied:
            say(f"  mirror: copied {copied} file{'s' * (copied > 1)} to {self.url}")
