"""The command `batch-nst`: parses its arguments, runs one command, prints its figures and exits."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from batch_nst import __version__
from batch_nst.arguments import (
    Commands,
    Parser,
    add_command,
    amount,
    count,
    shown,
    takes_budget,
    takes_device,
    takes_recipe,
    takes_recipe_and_lease,
    takes_wait,
    webhook,
)
from batch_nst.console import Shown, log, show, shows
from batch_nst.errors import BatchNSTError, RayLost, RecipeError, Stopped, reason_of
from batch_nst.figures import as_json
from batch_nst.pipelines import notify
from batch_nst.pipelines.cluster.stop import DOCTOR_MINUTES, WAIT_MINUTES
from batch_nst.pipelines.cluster.watch import arm, disarm, is_lost
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from batch_nst.streams import end_aside, keep_streams, tell
from batch_nst.summary import summary
from batch_nst.trials import SAMPLES, add_benchmark, add_init, add_zoo
from batch_nst.upkeep import add_forget, add_inspect, add_models, add_prune, add_rollback

_CONTINUE = {"generate", "train", "nightly", "forget"}
"""Commands that always continue where they were stopped. `apply` sometimes does; the others start again."""

_JOBS = ("nightly", "generate", "train", "evaluate", "export", "plan", "doctor")
"""Commands that `submit` can run as jobs: those that take a recipe."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    The last line on standard output is one JSON object with the run's figures. Everything else goes to
    standard error, but for the lines of Ray: these go to a log file, which is named if the run fails.

    Exit codes: 0 done; 1 failed, or not everything is done; 2 the call or the recipe is wrong; 3 the gate
    refused to publish; 4 another run holds the lease; 130 Ctrl-C; 143 SIGTERM.
    """
    keep_streams()
    output = sys.stdout
    command: str | None = None
    url: str | None = None
    continues = False
    code, figures = 0, as_json({})

    def stop(_signal: int, _frame: object) -> NoReturn:
        more = "; start it again and it continues" if continues else ""
        if is_lost():
            raise RayLost(f"Ray has died under this command; did memory or a disk run out?{more}")
        raise Stopped(f"stopped by SIGTERM{more}")

    def name_log(code: int) -> None:
        if path := end_aside(keep=code not in (0, Stopped.exit_code)):
            where = f"{path} on {platform.node()}"
            print(f"what Ray wrote is in {where}; -v shows it as it comes", file=sys.stderr)

    def end(code: int, figures: object) -> None:
        disarm()
        line = json.dumps({"command": command, "exit_code": code} | as_json(figures))
        tell(line, output)
        notify.deliver(url, line)

    signal.signal(signal.SIGTERM, stop)
    arm()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs this way
        # Keep ignoring it, with a handler that Ray's workers do not inherit. Ray cancels tasks by SIGINT, and
        # calls the handler that it finds, callable or not (ray._private.utils.DeferSigint).
        signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        options = parse(arguments)
        show(shown(options))
        sys.stdout = sys.stderr  # libraries print too; Ray does so until the process exits
        command, continues = options.command, _continues(options)
        url = notify.hide_url(getattr(options, "notify", None))
        figures = as_json(options.run(options))
    except (BatchNSTError, Stopped) as error:
        code = error.exit_code
        figures = as_json({"error": str(error)}) | as_json(error.figures or {})
        name_log(code)
        print(f"batch-nst{f' {command}' if command else ''}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code, figures = 130, {"error": "interrupted"}
        name_log(code)
    except Exception as bug:  # its traceback is shown here, and sent nowhere
        name_log(1)
        end(1, {"error": reason_of(bug)})
        raise
    name_log(code)
    end(code, figures)
    if command and not code and sys.stderr.isatty() and shows(Shown.NEWS):
        log("\n".join(summary(command, options, argparse.Namespace(**figures))))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is said; what ends Ray now is not to be cut off
    sys.exit(code)


def _continues(options: argparse.Namespace) -> bool:
    """Whether the command, started again, continues where it was stopped."""
    if options.command == "apply":
        from batch_nst.pipelines.apply.tasks import ENCODINGS

        one = PurePosixPath(options.target).suffix.lower() in ENCODINGS
        return not (one or options.overwrite)
    return options.command in _CONTINUE


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a call; `run` of the result runs its command. Raises RecipeError where an argument is wrong."""
    parser = Parser(
        prog="batch-nst",
        description="From a painting and your photos, make a fast model that paints any photo in that style.",
        epilog="Example: batch-nst nightly jobs/recipes/demo.yaml",
    )
    parser.add_argument("--version", action="version", version=f"batch-nst {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    options, rest = parser.parse_known_args(arguments)
    # Before Python 3.13 argparse accepts no further overrides after an option between them.
    if "overrides" in options and not any(word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]
    elif rest:
        commands.choices.get(options.command, parser).refuse(rest)
    if options.command is None:
        parser.print_help(sys.stderr)
        sys.exit(2)
    return options


# --- each command: its options, and what it runs


def _recipe(options: argparse.Namespace) -> Recipe:
    return load_recipe(options.recipe, options.overrides)


def _takes_nodes(command: argparse.ArgumentParser, minutes: float | None = WAIT_MINUTES) -> None:
    default = f"{WAIT_MINUTES:g}; doctor {DOCTOR_MINUTES:g}" if minutes is None else f"{minutes:g}"
    command.add_argument(
        "--wait-for-nodes",
        type=amount,
        default=minutes,
        metavar="MIN",
        help=f"end with 1 if no node comes for so long ({default})",
    )


def _limits(options: argparse.Namespace) -> tuple[bool, float, datetime | None, float]:
    return options.retry, options.max_device_hours, options.deadline, options.wait_for_nodes


def _add_plan(commands: Commands) -> None:
    text = "show how much there is to do and what it will cost; writes nothing"
    command = add_command(commands, _plan, "plan", text, "jobs/recipes/demo.yaml --calibrate")
    takes_recipe(command)
    text = "measure a few photos here first, for about a minute; without it, costs are the last run's"
    command.add_argument("--calibrate", action="store_true", help=text)
    text = "what a device costs an hour, in any currency: shows the price too"
    command.add_argument("--price-per-device-hour", type=amount, metavar="P", help=text)


def _plan(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import plan

    return plan(_recipe(options), options.calibrate, options.price_per_device_hour)


def _add_generate(commands: Commands) -> None:
    text = "paint the photos slowly and well: the pairs that a model learns from"
    command = add_command(commands, _generate, "generate", text, "jobs/recipes/demo.yaml generate.crops=2")
    takes_recipe_and_lease(command)
    takes_budget(command)
    _takes_nodes(command)


def _generate(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import generate

    return generate(_recipe(options), options.wait, *_limits(options))


def _add_train(commands: Commands) -> None:
    text = "train the fast model on the pairs, or continue its training"
    command = add_command(commands, _train, "train", text, "jobs/recipes/demo.yaml train.steps=200")
    takes_recipe_and_lease(command)
    _takes_nodes(command)


def _train(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import train

    return train(_recipe(options), options.wait, options.wait_for_nodes)


def _add_evaluate(commands: Commands) -> None:
    text = "measure how good the model is, on photos that it has never seen"
    command = add_command(commands, _evaluate, "evaluate", text, "jobs/recipes/demo.yaml")
    takes_recipe_and_lease(command)
    _takes_nodes(command)


def _evaluate(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import evaluate

    return evaluate(_recipe(options), options.wait, options.wait_for_nodes)


def _add_export(commands: Commands) -> None:
    text = "write the model as ONNX too, for other programs"
    command = add_command(commands, _export, "export", text, "jobs/recipes/demo.yaml")
    takes_recipe_and_lease(command, nargs="?")
    text = "write a web page there too, which paints photos in a browser"
    command.add_argument("--page", metavar="DIR", help=text)
    text = "the npm package onnxruntime-web for the page: node_modules/onnxruntime-web"
    command.add_argument("--runtime", metavar="FOLDER", help=text)
    text = "no RECIPE: the page is to paint with all models that ship"
    command.add_argument("--zoo", action="store_true", help=text)


def _export(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import export
    from batch_nst.pipelines.zoo import export_zoo

    if options.zoo and options.recipe is not None:
        raise RecipeError(f"--zoo: given with the recipe {options.recipe}; allowed: one of the two")
    if options.zoo:
        return export_zoo(options.page, options.runtime)
    if options.recipe is None:
        raise RecipeError("RECIPE: missing; allowed: a recipe, or --zoo")
    return export(_recipe(options), options.wait, options.page, options.runtime)


def _add_nightly(commands: Commands) -> None:
    text = "all four steps above; then publish the model if it is better"
    command = add_command(commands, _nightly, "nightly", text, "jobs/recipes/demo.yaml output=/tmp/demo")
    takes_recipe_and_lease(command)
    takes_budget(command)
    _takes_nodes(command)
    command.add_argument(
        "--notify",
        type=webhook,
        default=os.environ.get(notify.VARIABLE) or None,
        metavar="URL",
        help=f"post the figures to this address when the run ends (or set {notify.VARIABLE})",
    )


def _nightly(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.nightly import nightly

    return nightly(_recipe(options), options.wait, *_limits(options))


def _add_doctor(commands: Commands) -> None:
    text = "check that everything a run needs is there and works; say what to do"
    command = add_command(commands, _doctor, "doctor", text, "jobs/recipes/demo.yaml")
    takes_recipe(command)
    _takes_nodes(command, DOCTOR_MINUTES)


def _doctor(options: argparse.Namespace) -> object:
    recipe = _recipe(options)

    from batch_nst.pipelines.doctor import doctor

    return doctor(recipe, options.wait_for_nodes)


def _add_submit(commands: Commands) -> None:
    text = "run nightly, or another command, on a Ray cluster and wait for it"
    command = add_command(commands, _submit, "submit", text, "auvers.yaml --address http://127.0.0.1:8265")
    takes_recipe(command, "; it is sent along, with its style image if that is on this machine")
    command.add_argument(
        "--address",
        metavar="URL",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="the cluster's job server (RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)",
    )
    takes_wait(command, "if another run is at work on the output, the job waits")
    takes_budget(command)
    _takes_nodes(command, None)
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--nightly", dest="job", action="store_const", const="nightly", help="run nightly (the default)"
    )
    which.add_argument(
        "--command", dest="job", choices=_JOBS, metavar="NAME", help=f"run another: {', '.join(_JOBS[1:])}"
    )
    command.set_defaults(job="nightly")
    command.add_argument(
        "--shared", action="store_true", help="nodes see this machine's files under the same paths"
    )
    then = command.add_mutually_exclusive_group()
    for word, text in (
        ("detach", "start the job and do not wait for it"),
        ("stop", "stop the job of this recipe's output, and wait until it has ended"),
        ("status", "show how the latest job of this output is doing"),
    ):
        then.add_argument(f"--{word}", dest="then", action="store_const", const=word, help=text)


def _submit(options: argparse.Namespace) -> object:
    recipe = _recipe(options)

    from batch_nst.pipelines import submit

    if options.then == "stop":
        return submit.stop(recipe, options.address)
    if options.then == "status":
        return submit.status(recipe, options.address)
    detach, words = options.then == "detach", _words(options)
    return submit.submit(recipe, options.job, options.address, options.shared, detach, words)


def _words(options: argparse.Namespace) -> list[str]:
    """The options of `submit` for the job's command. Raises RecipeError if it does not take one."""
    words = [f"--{name}" for name in ("wait", "retry") if getattr(options, name)]
    if options.max_device_hours < math.inf:
        words += ["--max-device-hours", repr(options.max_device_hours)]
    if options.deadline:  # with date and zone: clocks of the cluster may show another time of day
        words += ["--deadline", options.deadline.isoformat()]
    if options.wait_for_nodes is not None:
        words += ["--wait-for-nodes", f"{options.wait_for_nodes:g}"]
    words += ["-v"] if options.verbose else ["-q"] * options.quiet
    try:
        parse([options.job, "RECIPE", *words])
    except RecipeError as error:
        raise RecipeError(f"--command {options.job}: {error}") from error
    return words


def _add_try(commands: Commands) -> None:
    text = "paint a few photos with several settings, side by side on one page"
    command = add_command(commands, _try, "try", text, "auvers.yaml loss.style_weight=10,100,1000")
    takes_recipe(
        command,
        "; without it, the shipped photos and painting are taken",
        values="section.key=V1,V2,V3",
        what="settings to compare: several values of one key or two; other keys are set as given",
    )
    command.add_argument("--photos", type=count, default=4, metavar="N", help="how many photos (4)")
    command.add_argument(
        "--out", metavar="FILE", default="try.html", help="where to write the page (try.html)"
    )


def _try(options: argparse.Namespace) -> object:
    from batch_nst.recipe_file import read_variants

    given = [options.recipe, *options.overrides]
    if "=" in options.recipe and not Path(options.recipe).exists():
        given.insert(0, str(SAMPLES / "try.yaml"))
    variants = read_variants(given[0], given[1:])  # reports errors before torch is imported

    from batch_nst.pipelines.try_ import try_variants

    return try_variants(variants, options.photos, options.out)


def _add_apply(commands: Commands) -> None:
    text = "paint a photo, or all photos of a folder or bucket, with a model"
    command = add_command(commands, _apply, "apply", text, "out/demo photo.jpg painted.png")
    add = command.add_argument
    add(
        "model",
        metavar="MODEL",
        help="one of `batch-nst zoo`; or the output of a recipe (its published model is used), or one of its "
        "models/VERSION",
    )
    add("source", metavar="IN", help="a photo; or a folder, bucket, list, tar or table of photos")
    add(
        "target",
        metavar="OUT",
        help="the picture to write; for more than one photo a folder, here or in a bucket",
    )
    add("--keep-colors", action="store_true", help="keep the photo's colours; stylize only its luminance")
    fraction = partial(amount, most=1.0)
    add(
        "--strength",
        type=fraction,
        default=1.0,
        metavar="S",
        help="how much of the style: 0 is the photo, 1 the full style (1)",
    )
    text = (
        "paint at this short side, for strokes as large as there, and bring the photo's detail back (its own)"
    )
    add("--size", type=partial(count, least=16), metavar="PX", help=text)
    add("--overwrite", action="store_true", help="paint again what is in OUT already")
    add(
        "--store",
        dest="stores",
        action="append",
        default=[],
        metavar="URI",
        help="a bucket, host or folder outside IN from which a list or table may take photos; repeatable",
    )
    text = "fp32 is exact, bf16 faster on some devices (auto)"
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=text)
    takes_device(command)
    _takes_nodes(command)


def _apply(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.apply.run import apply

    return apply(
        options.model,
        options.source,
        options.target,
        device=options.device,
        keep_colors=options.keep_colors,
        strength=options.strength,
        size=options.size,
        precision=options.precision,
        overwrite=options.overwrite,
        stores=options.stores,
        wait_minutes=options.wait_for_nodes,
    )


_ON_RECIPES = (_add_plan, _add_generate, _add_train, _add_evaluate, _add_export, _add_nightly)
_ON_CLUSTERS = (_add_doctor, _add_submit)
_ON_PHOTOS = (_add_try, _add_apply, add_zoo)
_ON_OUTPUTS = (add_inspect, add_forget, add_models, add_rollback, add_prune)
_COMMANDS = (add_init, *_ON_RECIPES, *_ON_CLUSTERS, *_ON_PHOTOS, *_ON_OUTPUTS, add_benchmark)
"""Functions that add the commands, in the order of `--help`."""
