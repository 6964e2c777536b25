"""The command line: `python -m delt_jax.main --config=configs/digits.py --workdir=runs/digits`."""

import re
import sys

from absl import flags

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that holds everything the run makes.")
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Stages to run, of squeeze,rank,recover,relabel,evaluate,report; default all.",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and its cost; touch nothing.")


def run(config) -> None:
    """Runs or plans the stages of a config."""
    # Imported here so that a mistyped flag is answered at once.
    from delt_jax import data, pipeline, plan, recipe
    from delt_jax.store.workdir import WorkDir

    settings = recipe.from_config(config)
    pipeline.chosen(_STAGES.value)
    workdir = WorkDir(_WORKDIR.value)
    workdir.check()
    source = data.open_source(settings.data)
    pipeline.check(settings, source)
    if _DRY_RUN.value:
        print("\n".join(plan.describe(settings, source, workdir, _STAGES.value)))
        return
    workdir.open(settings)
    try:
        pipeline.run(settings, source, workdir, _STAGES.value)
    finally:
        workdir.close()


def _sentence(error: BaseException) -> str:
    """The first line of what a flag parser or a config file raised, without its traceback."""
    text = re.sub(r"\s+", " ", str(error)).strip(" '\"")
    return text or type(error).__name__


def main(argv: list[str] | None = None) -> int:
    """Parses flags, runs, and turns bad input into one sentence on stderr.

    Returns:
      The exit status: 0, 1 for bad input found while running, 2 for bad flags, 130 for Ctrl-C.
    """
    from ml_collections import config_flags

    from delt_jax.errors import UserError

    if "config" not in flags.FLAGS:
        config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/digits.py.")
    arguments = sys.argv if argv is None else argv
    try:
        rest = flags.FLAGS(arguments)
        if len(rest) > 1:
            raise UserError(f"Unexpected argument {rest[1]!r}; options begin with --.")
        for name in ("config", "workdir"):
            if not flags.FLAGS[name].value:
                raise UserError(
                    f"--{name} is missing; try --config=configs/digits.py --workdir=runs/digits."
                )
    except Exception as e:
        print(f"delt_jax: {_sentence(e)}", file=sys.stderr)
        return 2
    try:
        run(flags.FLAGS["config"].value)
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
