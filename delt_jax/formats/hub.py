"""Puts an exported set on the Hugging Face Hub."""

import re
from pathlib import Path

from delt_jax.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
LAYOUT = "parquet"  # what the Hub shows and `datasets` reads


def check(name: str, to: str) -> None:
    """Checks what can be known before a set is written.

    Args:
      name: of the data set, OWNER/NAME; empty if nothing is put there.
      to: layout of the export.

    Raises:
      UserError: for another layout, or a name that the Hub does not take.
    """
    if name and to != LAYOUT:
        raise UserError(f"--push is for --to={LAYOUT}, which the Hub shows; {to} stays here.")
    if name and not _NAME.fullmatch(name):
        raise UserError(f"--push takes OWNER/NAME of a data set on the Hub, not {name!r}.")


def push(folder: Path, name: str) -> str:
    """Uploads an export as a data set, which is made if there is none of this name.

    Returns:
      Where it is.

    Raises:
      UserError: if the Hub refuses, or cannot be reached; the export stays.
    """
    from huggingface_hub import HfApi  # slow to import

    api = HfApi()
    try:
        place = api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            folder_path=str(folder),
            repo_id=name,
            repo_type="dataset",
            commit_message="A distilled set, exported by delt_jax",
        )
    except Exception as e:  # of the library and of the network below it
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise UserError(
            f"{folder} is written, but --push={name} failed ({reason}); log in with `hf auth "
            f"login`, and run the same command with --overwrite."
        ) from e
    return str(place)
