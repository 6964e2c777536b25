"""The exceptions that reach the user as a sentence instead of a traceback."""

from __future__ import annotations

TYPE_CHECKING = False  # without an import, as in delt_jax itself
if TYPE_CHECKING:
    from pathlib import Path


class UserError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and how to fix it."""


class DamagedArtefact(UserError):
    """A file that a stage wrote is missing, or is not what the stage wrote.

    Attributes:
      path: of the file.
      fault: what is wrong, as a sentence without its full stop that names the file.
    """

    def __init__(self, path: Path, fault: str, stage: str = ""):
        """Makes the sentence for those who read the file outside of a run.

        Args:
          path: of the file.
          fault: what is wrong.
          stage: that makes the file; empty where several may have.
        """
        how = "run the stage that makes it again with --verify"
        if stage:
            how = f"run the {stage} stage again with --verify (--stages={stage} --verify)"
        super().__init__(f"{fault}; {how}.")
        self.path, self.fault = path, fault
