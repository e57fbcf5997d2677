"""Arguments of the command line: the parser, the values of options, and options that commands share."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NoReturn, TypeAlias
from urllib.parse import urlsplit

from batch_nst.console import Shown
from batch_nst.errors import RecipeError
from batch_nst.suggestions import did_you_mean

Run: TypeAlias = Callable[[argparse.Namespace], object]


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that every wrong call ends in the same way."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse when the arguments are wrong."""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            message += did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        raise RecipeError(f"{message}; see `{self.prog} --help`")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that nothing of this command takes."""
        mine = sorted(set(re.findall(r"--[a-z-]+", self.format_help())))
        self.error(f"unknown: {' '.join(words)}{did_you_mean(words[0].partition('=')[0], mine)}")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, run: Run, name: str, text: str, example: str) -> Parser:
    """Add a command.

    Args:
        commands: the commands of the parser so far.
        run: called with the options; returns figures, which `as_json` takes.
        name: what the command is called.
        text: what it does, in one line that starts in lower case.
        example: arguments for the example in its help.
    """
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"Example: batch-nst {name} {example}".rstrip(),
    )
    command.set_defaults(run=run)
    how_much = command.add_mutually_exclusive_group()
    how_much.add_argument(
        "-q", "--quiet", action="count", default=0, help="show warnings and errors only; -qq: errors only"
    )
    text = "show what Ray writes itself too, as it comes; else it goes to a file that a failure names"
    how_much.add_argument("-v", "--verbose", action="store_true", help=text)
    return command


def shown(options: argparse.Namespace) -> Shown:
    """What is shown by `--quiet` and `--verbose`."""
    return Shown.LIBRARIES if options.verbose else Shown(max(Shown.NEWS - options.quiet, Shown.ERRORS))


def takes_recipe(
    command: argparse.ArgumentParser,
    more: str = "",
    values: str = "section.key=value",
    what: str = "set a key of the recipe for this call, such as train.steps=8000",
    nargs: str | None = None,
) -> None:
    """Add the arguments for a recipe and for values of its keys."""
    command.add_argument("recipe", metavar="RECIPE", nargs=nargs, help=f"a recipe: a YAML file{more}")
    command.add_argument("overrides", nargs="*", default=[], metavar=values, help=what)


def takes_recipe_and_lease(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add the arguments for a recipe, and `--wait`."""
    takes_recipe(command, nargs=nargs)
    takes_wait(command)


def takes_wait(
    command: argparse.ArgumentParser, what: str = "if another run is at work on the output, wait"
) -> None:
    """Add `--wait`."""
    command.add_argument("--wait", action="store_true", help=f"{what} until it ends")


def takes_budget(command: argparse.ArgumentParser) -> None:
    """Add the options that bound the making of pairs."""
    command.add_argument("--retry", action="store_true", help="try again the photos that failed")
    command.add_argument(
        "--max-device-hours",
        type=amount,
        default=math.inf,
        metavar="H",
        help="begin no more photos after so many hours of work, summed over devices",
    )
    command.add_argument(
        "--deadline",
        type=deadline,
        metavar="HH:MM",
        help="begin no more photos after this time (local; or a date with a zone); nightly then trains",
    )


def takes_device(command: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (auto)"
    )


def takes_output(command: argparse.ArgumentParser, more: str = "") -> None:
    """Add the argument for an output."""
    command.add_argument("output", metavar="OUTPUT", help=f"the output of a recipe: a folder or bucket{more}")


# --- values


def amount(word: str, most: float = math.inf) -> float:
    """Parse a finite number from 0 to `most`."""
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= most or amount == math.inf:
        allowed = "a number, 0 or more" if most == math.inf else f"a number from 0 to {most:g}"
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: {allowed}")
    return amount


def count(word: str, least: int = 1) -> int:
    """Parse a whole number, `least` or more."""
    if not word.isdecimal() or int(word) < least:
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: a whole number, {least} or more")
    return int(word)


def deadline(word: str) -> datetime:
    """Parse HH:MM, the next time that a local clock shows it, or any date and time with a zone."""
    with contextlib.suppress(ValueError):
        if match := re.fullmatch(r"(\d\d?):(\d\d)", word):
            return next_time(int(match[1]), int(match[2]), datetime.now())
        moment = datetime.fromisoformat(word)
        if moment.tzinfo:
            return moment
    raise argparse.ArgumentTypeError(
        f"given {word!r}; allowed: a time of day, such as 06:00, or a date and time with a zone, such as "
        "2027-01-31T06:00+01:00"
    )


def next_time(hour: int, minute: int, now: datetime) -> datetime:
    """The first moment after `now` at this time of day, with its zone; `now` is local, without a zone."""
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    moment = today.astimezone()
    return moment if moment > now.astimezone() else (today + timedelta(days=1)).astimezone()


def webhook(word: str) -> str:
    """Parse an http or https URL. A wrong one is not shown: it may be a mistyped secret."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(word)
        _ = parts.port
        if parts.scheme in ("http", "https") and parts.hostname and word.isprintable() and " " not in word:
            return word
    raise argparse.ArgumentTypeError("allowed: an http or https URL; what was given is not shown")
