"""The command line: `python -m delt_jax.main --config=configs/digits.py --workdir=runs/digits`."""

import sys
from collections.abc import Sequence

import ml_collections
from absl import flags

from delt_jax import cli, host_memory
from delt_jax.config import from_config
from delt_jax.errors import UserError

flags.adopt_module_key_flags(cli)  # so that --help lists them


def run(
    config: ml_collections.ConfigDict,
    workdir: str,
    stages: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Runs or plans the stages of a config.

    Raises:
      UserError: for settings, data or folders that cannot work, before anything is written.
    """
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax import data, pipeline, plan
    from delt_jax.store.workdir import WorkDir

    settings = from_config(config)
    folder = WorkDir(workdir)
    folder.check()
    pipeline.chosen(stages, settings, folder)
    source = data.open_source(settings.data)
    pipeline.check(settings, source)
    pipeline.check_imported(stages, settings, source, folder)
    if dry_run:
        print("\n".join(plan.describe(settings, source, folder, stages)))
        return
    folder.open(settings)
    try:
        pipeline.run(settings, source, folder, stages)
    finally:
        folder.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Parses flags, runs, and turns bad input into one sentence on stderr.

    Returns:
      The exit status: 0, 1 for bad input found while running, 2 for bad flags, 130 for Ctrl-C.
    """
    try:
        arguments = cli.parse(sys.argv if argv is None else argv)
    except UserError as e:
        print(f"delt_jax: {e}", file=sys.stderr)
        return 2
    host_memory.keep_freed()
    try:
        run(*arguments)
    except UserError as e:
        print(f"delt_jax: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "delt_jax: stopped; finished work is kept, the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
