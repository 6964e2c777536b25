"""What --help and --version print, made from the flags and from the one list of settings."""

import dataclasses
import inspect
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

from absl import flags

import delt_jax
from delt_jax.config import sentences
from delt_jax.config.page import values_in_words
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS, Recipe
from delt_jax.recipe.fields import Setting

_HELP = ("-h", "-?", "-help", "--help", "--helpshort", "--helpfull")
_NARROW, _WIDE = 60, 100  # characters a line
_TOP = "run"  # the group of the settings that belong to none
STAGES = {
    "squeeze": "trains the teacher, or reads its weights",
    "rank": "asks the teacher how sure it is of each training image",
    "recover": "optimises the distilled images",
    "experts": "trains networks whose trajectories are matched, where learn.method asks for them",
    "learn": "learns a distilled set in its place, where synthesis is learn",
    "relabel": "stores the teacher's soft labels of them",
    "evaluate": "trains students from scratch on them and on real images, and scores these",
    "report": "writes tables, charts and pictures",
}
_RUN = """\
usage: delt_jax run --config=RECIPE --workdir=FOLDER [flags] [--config.NAME=VALUE ...]

  delt_jax run --config=digits --workdir=runs/digits
  delt_jax run --config=imagenet:cda,ipc10 --workdir=runs/cda --dry_run
  delt_jax run --config=mine.py --workdir=runs/mine --config.recover.iterations=2000

RECIPE is one of delt_jax's own by name (`delt_jax configs` lists them) or the path of a file that \
ends in .py or has a slash (`delt_jax new` writes one). After a colon come, with commas between \
them, presets of the recipe, ipcN for N images per class, a method, folder=PATH for images in \
folders, and protocol=NAME for how students train. The same command goes on where a stopped run was.
"""


def version() -> str:
    """The line that --version prints."""
    jax = metadata.version("jax")
    return f"delt_jax {delt_jax.__version__} (Python {platform.python_version()}, JAX {jax})"


def answer(arguments: Sequence[str], page: Callable[[str], str]) -> None:
    """Prints the version or a page of help, if these are asked for.

    Args:
      arguments: of a command, its name first.
      page: text of the help about a group of settings or about one; about all if it gets "".

    Raises:
      SystemExit: with status 0, once something was printed.
      UserError: if there is no such group.
    """
    for number, argument in enumerate(arguments[1:], 2):
        flag, equals, about = argument.partition("=")
        if argument == "--version":
            print(version())
            raise SystemExit(0)
        if flag in _HELP:
            following = arguments[number] if number < len(arguments) else ""
            print(page(about if equals else following if following[:1] != "-" else ""))
            raise SystemExit(0)
        if argument == "--":
            return


def of_run(about: str, own: Iterable[flags.Flag]) -> str:
    """The help of a run: usage, stages, flags and all settings.

    Args:
      about: a group of settings or a setting, to which the help is then limited.
      own: flags of the run.

    Raises:
      UserError: if there is no such group or setting.
    """
    groups = _groups()
    if about in groups:
        return "\n".join(_group_lines(about, *groups[about]))
    if about in SETTINGS:
        return "\n".join(_setting_lines(about, SETTINGS[about]))
    if about:
        hint = nearest(about, [*groups, *SETTINGS])
        raise UserError(
            f"--help has no {about!r}{hint} It takes a setting, or one of the groups "
            f"{', '.join(groups)}."
        )
    lines = [*wrapped(_RUN), "stages, in this order", *listed(STAGES), "", "flags"]
    lines += [*_flag_lines(own), ""]
    lines += wrapped(
        "The settings follow, as --config.NAME=VALUE with their defaults, which recipes and "
        "methods change; `--help=GROUP` shows one group alone. Commas separate the entries of a "
        "tuple. None stands for what the protocol says.\n"
    )
    for name, group in groups.items():
        lines += [*_group_lines(name, *group), ""]
    return "\n".join(lines).rstrip()


def of_command(text: str, own: flags.FlagValues) -> str:
    """The help of another command.

    Args:
      text: what the command does, its module's docstring.
      own: its flags.
    """
    paragraphs = (" ".join(each.split()) for each in text.strip().split("\n\n"))
    lines = [*wrapped("\n\n".join(paragraphs)), "", "flags"]
    return "\n".join(lines + _flag_lines(own[name] for name in own))


def parsed(arguments: Sequence[str], text: str, own: flags.FlagValues) -> list[str]:
    """Reads the flags of another command, or answers for help.

    Args:
      arguments: of the command, its name first; flags may follow others.
      text: what the command does, its module's docstring.
      own: its flags, which get their values.

    Returns:
      The arguments that are no flags.

    Raises:
      UserError: one sentence about the first thing that is wrong.
      SystemExit: for --help and --version.
    """
    answer(arguments, lambda _: of_command(text, own))
    own.unparse_flags()
    own.set_gnu_getopt(True)
    try:
        return own(list(arguments))[1:]
    except flags.Error as e:
        raise UserError(sentences.sentence(e)) from e


def _groups() -> dict[str, tuple[str, dict[str, Setting]]]:
    """What each group of settings is about, and its settings by their dotted names."""
    found = {_TOP: ("The whole run.", {n: s for n, s in SETTINGS.items() if "." not in n})}
    for field in dataclasses.fields(Recipe):
        if field.name not in SETTINGS:
            own = {n: s for n, s in SETTINGS.items() if n.startswith(f"{field.name}.")}
            about = " ".join((inspect.getdoc(field.type) or "").split())
            found[field.name] = (about, own)
    return found


def _group_lines(name: str, about: str, settings: dict[str, Setting]) -> list[str]:
    lines = wrapped(f"{name}: {about}")
    for setting, described in settings.items():
        lines += ["", *_setting_lines(setting, described)]
    return lines


def _setting_lines(name: str, setting: Setting) -> list[str]:
    """Name and default, then meaning and what values there are, where that says anything."""
    text = setting.meaning
    if setting.allowed is not None:
        one = "one of " * (bool(setting.choices) and setting.kind is not tuple)
        values = f"{one}{values_in_words(setting, _typed)}."
        text += f" {values[0].upper()}{values[1:]}"
    return [f"  {name} = {_typed(setting.default)}", *wrapped(text, "      ")]


def _typed(value: Any) -> str:
    """A value as a command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_typed, value)) or "()"
    return str(value) if value != "" else '""'


def _flag_lines(own: Iterable[flags.Flag]) -> list[str]:
    """Flags and what they mean."""
    lines = []
    for flag in own:
        choices = getattr(flag.parser, "enum_values", None)
        text = str(flag.help).removeprefix(f"<{'|'.join(choices)}>: " if choices else "")
        value = "" if flag.boolean else f"={'|'.join(choices) if choices else 'VALUE'}"
        given = flag.default not in (None, "", [], False)
        default = f" Default {_typed(_as_tuple(flag.default))}." * given
        lines += [f"  --{flag.name}{value}", *wrapped(f"{text}{default}", "      ")]
    return lines


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def listed(entries: dict[str, str]) -> list[str]:
    """Names and what they mean, in two columns."""
    width = max(map(len, entries)) + 2
    return [
        line
        for name, text in entries.items()
        for line in wrapped(text, " " * (width + 2), f"  {name:<{width}}")
    ]


def wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    """Lines no wider than the terminal; an indented line of the text stays as it is.

    Args:
      text: paragraphs; a line break ends one.
      indent: of all lines.
      first: beginning of the first line, in place of the indent.
    """
    width = min(max(shutil.get_terminal_size((88, 24)).columns, _NARROW), _WIDE)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if paragraph.startswith(" "):
            lines.append(paragraph)
            continue
        begin = first if first is not None and not lines else indent
        wrapped = textwrap.wrap(
            paragraph,
            width,
            initial_indent=begin,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += wrapped or [""]
    return lines
