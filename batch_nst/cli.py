"""The command `batch-nst`: words in, figures and an exit code out."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

from batch_nst import __version__
from batch_nst.errors import BatchNSTError, RecipeError, Stopped, reason_of
from batch_nst.figures import as_json
from batch_nst.recipe_file import load_recipe

Figures = dict[str, Any]

_CONTINUE = {"generate", "train", "nightly", "forget"}
"""Commands that always take up where they were stopped; `apply` does at times, the others begin anew."""

_JOBS = ("nightly", "generate", "train", "evaluate", "export", "plan", "doctor")
"""Commands that run as jobs: those of a recipe."""

_NOTIFY = "BATCH_NST_NOTIFY"
"""Of the environment, instead of `--notify`."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave the process.

    Exit codes: 0 done; 1 failed or not all done; 2 the call or the recipe is wrong; 3 the gate refused to
    publish; 4 another run holds the lease; 143 stopped by SIGTERM. The last line on standard output is one
    JSON object with the run's figures; everything else goes to standard error.
    """
    output = sys.stdout
    command: str | None = None
    url: str | None = None
    continues = False
    code, figures = 0, {}

    def stop(_signal: int, _frame: object) -> NoReturn:
        more = "; start it again and it continues" if continues else ""
        raise Stopped(f"stopped by SIGTERM{more}")

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        # Still ignored, but not so in Ray's workers, which inherit that alone: Ray cancels tasks by SIGINT,
        # and calls the handler that it finds, callable or not (ray._private.utils.DeferSigint).
        signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        options = parse(arguments)
        sys.stdout = sys.stderr  # what libraries print is no figure; Ray does so to the very end
        command, continues, url = options.command, _continues(options), _hide_url(options)
        figures = options.run(options)
    except (BatchNSTError, Stopped) as error:
        code = error.exit_code
        figures = {"error": str(error), **error.figures}
        print(f"batch-nst{f' {command}' if command else ''}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code, figures = 130, {"error": "interrupted"}
    except Exception as bug:  # shows its traceback, of which nothing goes elsewhere
        told = json.dumps({"command": command, "exit_code": 1, "error": reason_of(bug)})
        print(told, file=output, flush=True)
        _notify(url, told)
        raise
    told = json.dumps({"command": command, "exit_code": code, **figures})
    print(told, file=output, flush=True)
    _notify(url, told)
    sys.exit(code)


def _hide_url(options: argparse.Namespace) -> str | None:
    """The URL of `--notify`, a secret, taken away from where it would be seen.

    The words of a command are seen by everybody on its machine, and stand in Ray's list of drivers: so one
    that was started with it starts itself anew without. The environment is what Ray's processes inherit.
    """
    os.environ.pop(_NOTIFY, None)
    url: str | None = getattr(options, "notify", None)
    words: list[str] = []
    for word in sys.orig_argv[1:] if url else ():
        if word == url and words[-1].startswith("--n"):
            words.pop()
        elif not (word.startswith("--n") and word.endswith(f"={url}")):
            words.append(word)
    if url and len(words) < len(sys.orig_argv) - 1:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it was; handlers do not outlive this, that does
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, _NOTIFY: url})
    return url


def _notify(url: str | None, told: str) -> None:
    """Post what a command has come to, if somebody wants it. The command is over: SIGTERM changes nothing."""
    if url is None:
        return
    from batch_nst.pipelines.notify import post

    on_sigterm = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    post(url, told)
    signal.signal(signal.SIGTERM, on_sigterm)


def _continues(options: argparse.Namespace) -> bool:
    """Whether the command takes up where it was stopped when it is started again."""
    if options.command == "apply":
        from batch_nst.pipelines.apply.tasks import ENCODINGS

        one = PurePosixPath(options.target).suffix.lower() in ENCODINGS
        return not (one or options.overwrite)
    return options.command in _CONTINUE


def _plan(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.commands import plan

    recipe = load_recipe(options.recipe, options.overrides)
    return plan(recipe, options.calibrate, options.price_per_device_hour)


def _command(name: str) -> Callable[[argparse.Namespace], Figures]:
    def run(options: argparse.Namespace) -> Figures:
        from batch_nst.pipelines import commands

        named = ("wait", "retry", "max_device_hours", "deadline")
        keys = {key: value for key, value in vars(options).items() if key in named}
        command: Callable[..., Figures] = getattr(commands, name)
        return command(load_recipe(options.recipe, options.overrides), **keys)

    return run


def _doctor(options: argparse.Namespace) -> Figures:
    recipe = load_recipe(options.recipe, options.overrides)

    from batch_nst.pipelines.doctor import doctor

    return doctor(recipe)


def _submit(options: argparse.Namespace) -> Figures:
    recipe = load_recipe(options.recipe, options.overrides)

    from batch_nst.pipelines import submit

    if options.then in ("stop", "status"):
        step: Callable[..., Figures] = getattr(submit, options.then)
        return step(recipe, options.address)
    detach = options.then == "detach"
    words = _words(options)
    return submit.submit(recipe, options.job, options.address, options.shared, detach, words)


def _words(options: argparse.Namespace) -> list[str]:
    """The options of `submit` that are those of the job's command; one that it does not take is refused."""
    words = [f"--{name}" for name in ("wait", "retry") if getattr(options, name)]
    if options.max_device_hours < math.inf:
        words += ["--max-device-hours", repr(options.max_device_hours)]
    if options.deadline:  # a moment: clocks there may show another time of day
        words += ["--deadline", options.deadline.isoformat()]
    try:
        parse([options.job, "RECIPE", *words])
    except RecipeError as error:
        raise RecipeError(f"--command {options.job}: {error}") from error
    return words


def _try(options: argparse.Namespace) -> Figures:
    from batch_nst.recipe_file import read_variants

    variants = read_variants(options.recipe, options.overrides)  # what is wrong is told before torch is there

    from batch_nst.pipelines.try_ import try_variants

    return try_variants(variants, options.photos, options.out)


def _apply(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.apply.run import apply

    return apply(
        options.model,
        options.source,
        options.target,
        device=options.device,
        keep_colors=options.keep_colors,
        strength=options.strength,
        precision=options.precision,
        overwrite=options.overwrite,
        stores=options.stores,
    )


def _forget(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.commands import forget

    return forget(options.output, options.ids, wait=options.wait)


def _inspect(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.reports.dataset import inspect

    return as_json(inspect(options.output, options.out))


def _models(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.models import list_models

    return as_json(list_models(options.output))


def _rollback(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.commands import rollback

    return rollback(options.output, options.to, wait=options.wait)


def _prune(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.commands import prune
    from batch_nst.pipelines.models import retention

    return prune(*retention(options.output, options.keep), options.yes, wait=options.wait)


def _benchmark(options: argparse.Namespace) -> Figures:
    from batch_nst.pipelines.benchmark.engine import benchmark

    return benchmark(
        options.images,
        options.styles,
        device=options.device,
        quick=options.quick,
        model=options.model,
        results=options.results,
    )


class _Parser(argparse.ArgumentParser):
    """One whose complaints end as every other wrong call does."""

    def error(self, message: str) -> NoReturn:
        """Of argparse."""
        raise RecipeError(f"{message}; see `{self.prog} --help`")


def _amount(word: str, most: float = math.inf) -> float:
    """A finite number, 0 or more, and `most` at most."""
    try:
        amount = float(word)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= most or amount == math.inf:
        allowed = "a number, 0 or more" if most == math.inf else f"a number from 0 to {most:g}"
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: {allowed}")
    return amount


def _count(word: str) -> int:
    """A whole number, 1 or more."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"given {word!r}; allowed: a whole number, 1 or more")
    return int(word)


def _deadline(word: str) -> datetime:
    """The next time that a local clock shows HH:MM; or a date and time with a zone, past or not."""
    with contextlib.suppress(ValueError):
        if match := re.fullmatch(r"(\d\d?):(\d\d)", word):
            return _next(int(match[1]), int(match[2]), datetime.now())
        moment = datetime.fromisoformat(word)
        if moment.tzinfo:
            return moment
    raise argparse.ArgumentTypeError(
        f"given {word!r}; allowed: a time of day, such as 06:00, or a date and time with a zone, such as "
        "2027-01-31T06:00+01:00"
    )


def _next(hour: int, minute: int, now: datetime) -> datetime:
    """The first such time after `now`, which is local and without a zone; with its zone."""
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    moment = today.astimezone()
    return moment if moment > now.astimezone() else (today + timedelta(days=1)).astimezone()


def _webhook(word: str) -> str:
    """An http or https URL. What is wrong is not shown: it may be a secret with a slip in it."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(word)
        _ = parts.port
        if parts.scheme in ("http", "https") and parts.hostname and word.isprintable() and " " not in word:
            return word
    raise argparse.ArgumentTypeError("allowed: an http or https URL; what was given is not shown")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The words of a call as options; `run` among them takes the step. Wrong ones raise RecipeError."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse (before Python 3.13) takes no further overrides once an option has stood between them.
    if "overrides" in options and not any(word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]
    elif rest:
        parser.error(f"unknown: {' '.join(rest)}")
    return options


def _takes_recipe(command: argparse.ArgumentParser, more: str = "") -> None:
    command.add_argument("recipe", metavar="RECIPE", help=f"a YAML file{more}")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="keys to override"
    )


def _takes_budget(command: argparse.ArgumentParser) -> None:
    command.add_argument("--retry", action="store_true", help="try failed images once more")
    command.add_argument(
        "--max-device-hours",
        type=_amount,
        default=math.inf,
        metavar="H",
        help="begin no further unit when devices have worked for so long in all",
    )
    command.add_argument(
        "--deadline",
        type=_deadline,
        metavar="HH:MM",
        help="begin no further unit from then on (local time, or ISO with a zone); a night trains after it",
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="batch-nst",
        description="A painting and a bucket of photos in, a published fast style-transfer model out.",
        epilog="Example: batch-nst nightly jobs/recipes/demo.yaml",
    )
    parser.add_argument("--version", action="version", version=f"batch-nst {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, text: str, example: str, run: Callable[[argparse.Namespace], Figures]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"Example: {example}"
        )
        command.set_defaults(run=run)
        return command

    recipes = {
        "plan": (
            "what would run, and what it would cost; nothing is written",
            "batch-nst plan jobs/recipes/demo.yaml --calibrate",
        ),
        "generate": (
            "make or continue the dataset of pairs",
            "batch-nst generate jobs/recipes/demo.yaml generate.crops=2",
        ),
        "train": (
            "fit the fast model on the pairs; resume where it was cut off",
            "batch-nst train jobs/recipes/demo.yaml train.steps=200",
        ),
        "evaluate": (
            "score the model on held-out photos against the optimisation",
            "batch-nst evaluate jobs/recipes/demo.yaml",
        ),
        "export": ("write the ONNX graph beside the weights", "batch-nst export jobs/recipes/demo.yaml"),
        "nightly": (
            "all of it: generate, train, evaluate, export, publish what is better",
            "batch-nst nightly jobs/recipes/demo.yaml output=/tmp/demo",
        ),
    }
    for name, (text, example) in recipes.items():
        command = add(name, text, example, _plan if name == "plan" else _command(name))
        _takes_recipe(command)
        if name == "plan":
            command.add_argument(
                "--calibrate",
                action="store_true",
                help="try a few photos on the device that generate would choose (on Ray, about a minute); "
                "without it the costs are those of the last run, and no device is chosen",
            )
            command.add_argument(
                "--price-per-device-hour", type=_amount, metavar="P", help="tell a price, in any currency"
            )
        else:
            command.add_argument("--wait", action="store_true", help="wait for another run's lease")
        if name in ("generate", "nightly"):
            _takes_budget(command)
        if name == "nightly":
            command.add_argument(
                "--notify",
                type=_webhook,
                default=os.environ.get(_NOTIFY) or None,
                metavar="URL",
                help=f"post the figures there, however it ends; or {_NOTIFY}",
            )
    examine = add(
        "doctor",
        "check stores, weights, clocks and the cluster; tell remedies",
        "batch-nst doctor jobs/recipes/demo.yaml",
        _doctor,
    )
    _takes_recipe(examine)
    send = add(
        "submit",
        "run a command as a job on a Ray cluster, and wait for it",
        "batch-nst submit auvers.yaml --address http://127.0.0.1:8265",
        _submit,
    )
    _takes_recipe(send, "; it and a painting on this machine are sent")
    send.add_argument(
        "--address",
        metavar="URL",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="of the job server (RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
    )
    send.add_argument("--wait", action="store_true", help="the job waits for another run's lease")
    _takes_budget(send)
    which = send.add_mutually_exclusive_group()
    which.add_argument("--nightly", dest="job", action="store_const", const="nightly", help="the default")
    which.add_argument("--command", dest="job", choices=_JOBS, metavar="NAME", help=f"or {', '.join(_JOBS)}")
    send.set_defaults(job="nightly")
    send.add_argument(
        "--shared", action="store_true", help="the recipe's local paths are the same files on all nodes"
    )
    then = send.add_mutually_exclusive_group()
    for word, text in (
        ("detach", "do not wait"),
        ("stop", "stop the output's job, and wait for its end"),
        ("status", "tell how the output's latest job is"),
    ):
        then.add_argument(f"--{word}", dest="then", action="store_const", const=word, help=text)
    trial = add(
        "try",
        "optimise a few photos for each of several values, side by side on one page",
        "batch-nst try jobs/recipes/demo.yaml loss.style_weight=10,100,1000",
        _try,
    )
    trial.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    trial.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=V1,V2,V3",
        help="several values of one key or two of loss, style, vgg or generate; and keys to override",
    )
    trial.add_argument("--photos", type=_count, default=4, metavar="N", help="how many (4)")
    trial.add_argument("--out", metavar="FILE", default="try.html", help="the page (try.html)")
    apply = add(
        "apply",
        "stylize a file, or all photos of a folder, bucket or dataset",
        "batch-nst apply out/demo photo.jpg painted.png",
        _apply,
    )
    apply.add_argument(
        "model", metavar="MODEL", help="an output (its published model), or a folder models/VERSION"
    )
    apply.add_argument("source", metavar="IN", help="an image, or what generate.input may be")
    apply.add_argument("target", metavar="OUT", help="an image, else a folder or a prefix in a bucket")
    apply.add_argument("--keep-colors", action="store_true", help="those of the photo; its light is painted")
    apply.add_argument(
        "--strength",
        type=partial(_amount, most=1.0),
        default=1.0,
        metavar="S",
        help="0 is the photo, 1 the painting (1)",
    )
    apply.add_argument(
        "--overwrite", action="store_true", help="paint what is there already, of whatever model it is"
    )
    apply.add_argument(
        "--store",
        dest="stores",
        action="append",
        default=[],
        metavar="URI",
        help="a bucket, host or folder where a table or list may name photos beside its own; repeatable",
    )
    apply.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    apply.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    look = add(
        "inspect",
        "look at a dataset: counts, losses, speed, its best and worst pairs",
        "batch-nst inspect out/demo",
        _inspect,
    )
    look.add_argument("output", metavar="OUTPUT", help="a recipe's output")
    look.add_argument("--out", metavar="FILE", default="inspect.html", help="the page (inspect.html)")
    forget = add(
        "forget",
        "remove all pairs of photos for good, and say which models saw them",
        "batch-nst forget out/demo 3f2a9c01",
        _forget,
    )
    forget.add_argument("output", metavar="OUTPUT", help="a recipe's output")
    forget.add_argument(
        "ids",
        metavar="ID",
        nargs="+",
        help="of an image (column id, in hex), or its first 8 digits or more; its photo goes, with all crops",
    )
    forget.add_argument("--wait", action="store_true", help="wait for another run's lease")
    shelf = add(
        "models",
        "list the models of an output: figures, which is published, which refused",
        "batch-nst models out/demo",
        _models,
    )
    back = add(
        "rollback",
        "publish an earlier model again, and withdraw the published one",
        "batch-nst rollback out/demo",
        _rollback,
    )
    back.add_argument("--to", metavar="VERSION", help="which; else the one that was published before")
    prune = add(
        "prune",
        "delete old models; without --yes only tell which",
        "batch-nst prune out/demo --keep 5 --yes",
        _prune,
    )
    prune.add_argument("--keep", type=_count, metavar="N", help="the newest that stay (publish.keep, or 10)")
    prune.add_argument("--yes", action="store_true", help="delete them")
    prune.add_argument("output", metavar="OUTPUT", help="a recipe's output, or the recipe")
    for command in (shelf, back):
        command.add_argument("output", metavar="OUTPUT", help="a recipe's output")
    for command in (back, prune):
        command.add_argument("--wait", action="store_true", help="wait for another run's lease")
    measure = add(
        "benchmark",
        "the engine's figures on this machine, beside the peers' way",
        "batch-nst benchmark --quick",
        _benchmark,
    )
    measure.add_argument("--images", metavar="GLOB", default="jobs/samples/content", help="photos")
    measure.add_argument("--styles", metavar="GLOB", default="jobs/samples/styles", help="paintings")
    measure.add_argument("--quick", action="store_true", help="2 photos and 1 style at 128 px, in minutes")
    measure.add_argument("--model", default="", help="a trained model: how much sooner from its pictures on")
    measure.add_argument(
        "--results", metavar="FILE", default="", help="append measurements here; do not repeat its own"
    )
    measure.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser
