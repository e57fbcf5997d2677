"""Arguments of the command line: the parser, the values of options, and options that commands share."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NoReturn, TypeAlias
from urllib.parse import urlsplit

from batch_nst.errors import RecipeError

Run: TypeAlias = Callable[[argparse.Namespace], object]


class Parser(argparse.ArgumentParser):
    """One whose complaints end as every other wrong call does."""

    def error(self, message: str) -> NoReturn:
        """Of argparse."""
        raise RecipeError(f"{message}; see `{self.prog} --help`")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, run: Run, name: str, text: str, example: str) -> Parser:
    """Add a command.

    Args:
        commands: of the parser.
        run: called with the options; returns figures, which `as_json` takes.
        name: of the command.
        text: what it does, in a line that begins in lower case.
        example: its arguments in an example.
    """
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"Example: batch-nst {name} {example}",
    )
    command.set_defaults(run=run)
    return command


def takes_recipe(
    command: argparse.ArgumentParser,
    more: str = "",
    values: str = "section.key=value",
    what: str = "keys to override",
) -> None:
    """A recipe, and values of its keys."""
    command.add_argument("recipe", metavar="RECIPE", help=f"a YAML file{more}")
    command.add_argument("overrides", nargs="*", default=[], metavar=values, help=what)


def takes_recipe_and_lease(command: argparse.ArgumentParser) -> None:
    """A recipe, and whether to wait for the lease of its output."""
    takes_recipe(command)
    takes_wait(command)


def takes_wait(command: argparse.ArgumentParser, what: str = "wait") -> None:
    """Whether to wait for the lease."""
    command.add_argument("--wait", action="store_true", help=f"{what} for another run's lease")


def takes_budget(command: argparse.ArgumentParser) -> None:
    """What bounds the making of pairs."""
    command.add_argument("--retry", action="store_true", help="try failed images once more")
    command.add_argument(
        "--max-device-hours",
        type=amount,
        default=math.inf,
        metavar="H",
        help="begin no further unit when devices have worked for so long in all",
    )
    command.add_argument(
        "--deadline",
        type=deadline,
        metavar="HH:MM",
        help="begin no further unit from then on (local time, or ISO with a zone); a night trains after it",
    )


def takes_device(command: argparse.ArgumentParser) -> None:
    """The device."""
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def takes_output(command: argparse.ArgumentParser, more: str = "") -> None:
    """The output of a recipe."""
    command.add_argument("output", metavar="OUTPUT", help=f"a recipe's output{more}")


# --- values


def amount(word: str, most: float = math.inf) -> float:
    """A finite number, 0 or more, and `most` at most."""
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= most or amount == math.inf:
        allowed = "a number, 0 or more" if most == math.inf else f"a number from 0 to {most:g}"
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: {allowed}")
    return amount


def count(word: str) -> int:
    """A whole number, 1 or more."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: a whole number, 1 or more")
    return int(word)


def deadline(word: str) -> datetime:
    """The next time that a local clock shows HH:MM; or a date and time with a zone, past or not."""
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
    """The first such time after `now`, which is local and without a zone; with its zone."""
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    moment = today.astimezone()
    return moment if moment > now.astimezone() else (today + timedelta(days=1)).astimezone()


def webhook(word: str) -> str:
    """An http or https URL. What is wrong is not shown: it may be a secret with a slip in it."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(word)
        _ = parts.port
        if parts.scheme in ("http", "https") and parts.hostname and word.isprintable() and " " not in word:
            return word
    raise argparse.ArgumentTypeError("allowed: an http or https URL; what was given is not shown")
