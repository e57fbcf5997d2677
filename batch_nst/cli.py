"""The command `batch-nst`: parses its arguments, runs one command, prints its figures and exits."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import NoReturn

from batch_nst import __version__
from batch_nst.arguments import (
    Commands,
    Parser,
    add_command,
    amount,
    count,
    takes_budget,
    takes_device,
    takes_output,
    takes_recipe,
    takes_recipe_and_lease,
    takes_wait,
    webhook,
)
from batch_nst.errors import BatchNSTError, RecipeError, Stopped, reason_of
from batch_nst.figures import as_json
from batch_nst.pipelines import notify
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe

_CONTINUE = {"generate", "train", "nightly", "forget"}
"""Commands that always continue where they were stopped. `apply` sometimes does; the others start again."""

_JOBS = ("nightly", "generate", "train", "evaluate", "export", "plan", "doctor")
"""Commands that `submit` can run as jobs: those that take a recipe."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    The last line on standard output is one JSON object with the run's figures. Everything else goes to
    standard error. Exit codes: 0 done; 1 failed, or not everything is done; 2 the call or the recipe is
    wrong; 3 the gate refused to publish; 4 another run holds the lease; 130 Ctrl-C; 143 SIGTERM.
    """
    output = sys.stdout
    command: str | None = None
    url: str | None = None
    continues = False
    code, figures = 0, as_json({})

    def stop(_signal: int, _frame: object) -> NoReturn:
        more = "; start it again and it continues" if continues else ""
        raise Stopped(f"stopped by SIGTERM{more}")

    def end(code: int, figures: object) -> None:
        line = json.dumps({"command": command, "exit_code": code} | as_json(figures))
        print(line, file=output, flush=True)
        notify.deliver(url, line)

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs this way
        # Keep ignoring it, with a handler that Ray's workers do not inherit. Ray cancels tasks by SIGINT, and
        # calls the handler that it finds, callable or not (ray._private.utils.DeferSigint).
        signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        options = parse(arguments)
        sys.stdout = sys.stderr  # libraries print too; Ray does so until the process exits
        command, continues = options.command, _continues(options)
        url = notify.hide_url(getattr(options, "notify", None))
        figures = as_json(options.run(options))
    except (BatchNSTError, Stopped) as error:
        code = error.exit_code
        figures = as_json({"error": str(error)}) | as_json(error.figures or {})
        print(f"batch-nst{f' {command}' if command else ''}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code, figures = 130, {"error": "interrupted"}
    except Exception as bug:  # its traceback is shown here, and sent nowhere
        end(1, {"error": reason_of(bug)})
        raise
    end(code, figures)
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
        description="A style image and photos in, a published fast style-transfer model out.",
        epilog="Example: batch-nst nightly jobs/recipes/demo.yaml",
    )
    parser.add_argument("--version", action="version", version=f"batch-nst {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    options, rest = parser.parse_known_args(arguments)
    # Before Python 3.13 argparse accepts no further overrides after an option between them.
    if "overrides" in options and not any(word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]
    elif rest:
        parser.error(f"unknown: {' '.join(rest)}")
    return options


# --- each command: its options, and what it runs


def _recipe(options: argparse.Namespace) -> Recipe:
    return load_recipe(options.recipe, options.overrides)


def _add_plan(commands: Commands) -> None:
    text = "show what generate would do, and what that would cost; writes nothing"
    command = add_command(commands, _plan, "plan", text, "jobs/recipes/demo.yaml --calibrate")
    takes_recipe(command)
    command.add_argument(
        "--calibrate",
        action="store_true",
        help="measure a few photos on the device that generate would choose (starts Ray, for about a "
        "minute); without it, costs are those of the last run and no device is chosen",
    )
    command.add_argument(
        "--price-per-device-hour", type=amount, metavar="P", help="show a price (any currency)"
    )


def _plan(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import plan

    return plan(_recipe(options), options.calibrate, options.price_per_device_hour)


def _add_generate(commands: Commands) -> None:
    text = "make or continue the dataset of pairs"
    command = add_command(commands, _generate, "generate", text, "jobs/recipes/demo.yaml generate.crops=2")
    takes_recipe_and_lease(command)
    takes_budget(command)


def _generate(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import generate

    return generate(_recipe(options), options.wait, options.retry, options.max_device_hours, options.deadline)


def _add_train(commands: Commands) -> None:
    text = "train the fast model on the pairs, or resume its training"
    command = add_command(commands, _train, "train", text, "jobs/recipes/demo.yaml train.steps=200")
    takes_recipe_and_lease(command)


def _train(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import train

    return train(_recipe(options), options.wait)


def _add_evaluate(commands: Commands) -> None:
    text = "score the model on held-out photos against the optimisation"
    command = add_command(commands, _evaluate, "evaluate", text, "jobs/recipes/demo.yaml")
    takes_recipe_and_lease(command)


def _evaluate(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import evaluate

    return evaluate(_recipe(options), options.wait)


def _add_export(commands: Commands) -> None:
    text = "write the ONNX graph beside the weights"
    command = add_command(commands, _export, "export", text, "jobs/recipes/demo.yaml")
    takes_recipe_and_lease(command)


def _export(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import export

    return export(_recipe(options), options.wait)


def _add_nightly(commands: Commands) -> None:
    text = "generate, train, evaluate, export, and publish the model if it is better"
    command = add_command(commands, _nightly, "nightly", text, "jobs/recipes/demo.yaml output=/tmp/demo")
    takes_recipe_and_lease(command)
    takes_budget(command)
    command.add_argument(
        "--notify",
        type=webhook,
        default=os.environ.get(notify.VARIABLE) or None,
        metavar="URL",
        help=f"post the figures there when the run ends; or set {notify.VARIABLE}",
    )


def _nightly(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.nightly import nightly

    return nightly(_recipe(options), options.wait, options.retry, options.max_device_hours, options.deadline)


def _add_doctor(commands: Commands) -> None:
    text = "check stores, weights, clocks and the cluster; suggest remedies"
    takes_recipe(add_command(commands, _doctor, "doctor", text, "jobs/recipes/demo.yaml"))


def _doctor(options: argparse.Namespace) -> object:
    recipe = _recipe(options)

    from batch_nst.pipelines.doctor import doctor

    return doctor(recipe)


def _add_submit(commands: Commands) -> None:
    text = "run a command as a job on a Ray cluster, and wait for it"
    command = add_command(commands, _submit, "submit", text, "auvers.yaml --address http://127.0.0.1:8265")
    takes_recipe(command, "; it is sent, with a style image on this machine")
    command.add_argument(
        "--address",
        metavar="URL",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="the job server (RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)",
    )
    takes_wait(command, "the job waits")
    takes_budget(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--nightly", dest="job", action="store_const", const="nightly", help="the default")
    which.add_argument("--command", dest="job", choices=_JOBS, metavar="NAME", help=f"or {', '.join(_JOBS)}")
    command.set_defaults(job="nightly")
    command.add_argument("--shared", action="store_true", help="local paths are the same files on all nodes")
    then = command.add_mutually_exclusive_group()
    for word, text in (
        ("detach", "do not wait"),
        ("stop", "stop the output's job, and wait until it has ended"),
        ("status", "show the status of the output's latest job"),
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
    try:
        parse([options.job, "RECIPE", *words])
    except RecipeError as error:
        raise RecipeError(f"--command {options.job}: {error}") from error
    return words


def _add_try(commands: Commands) -> None:
    text = "optimise a few photos with several values, side by side on one page"
    command = add_command(commands, _try, "try", text, "jobs/recipes/demo.yaml loss.style_weight=10,100,1000")
    takes_recipe(
        command,
        values="section.key=V1,V2,V3",
        what="several values of one key or two of loss, style, vgg or generate; and keys to override",
    )
    command.add_argument("--photos", type=count, default=4, metavar="N", help="number of photos (4)")
    command.add_argument("--out", metavar="FILE", default="try.html", help="the page (try.html)")


def _try(options: argparse.Namespace) -> object:
    from batch_nst.recipe_file import read_variants

    variants = read_variants(options.recipe, options.overrides)  # reports errors before torch is imported

    from batch_nst.pipelines.try_ import try_variants

    return try_variants(variants, options.photos, options.out)


def _add_apply(commands: Commands) -> None:
    text = "stylize a file, or all photos of a folder, bucket or dataset"
    command = add_command(commands, _apply, "apply", text, "out/demo photo.jpg painted.png")
    add = command.add_argument
    add("model", metavar="MODEL", help="an output (its published model), or a folder models/VERSION")
    add("source", metavar="IN", help="an image, or what generate.input may be")
    add("target", metavar="OUT", help="an image, else a folder or a prefix in a bucket")
    add("--keep-colors", action="store_true", help="keep the photo's colours; stylize only its luminance")
    fraction = partial(amount, most=1.0)
    add("--strength", type=fraction, default=1.0, metavar="S", help="0 is the photo, 1 fully stylized (1)")
    add("--overwrite", action="store_true", help="stylize again what is there already")
    add(
        "--store",
        dest="stores",
        action="append",
        default=[],
        metavar="URI",
        help="a further bucket, host or folder where a table or list may name photos; repeatable",
    )
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    takes_device(command)


def _apply(options: argparse.Namespace) -> object:
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


def _add_inspect(commands: Commands) -> None:
    text = "show a dataset: counts, losses, speed, its best and worst pairs"
    command = add_command(commands, _inspect, "inspect", text, "out/demo")
    takes_output(command)
    command.add_argument("--out", metavar="FILE", default="inspect.html", help="the page (inspect.html)")


def _inspect(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.reports.dataset import inspect

    return inspect(options.output, options.out)


def _add_forget(commands: Commands) -> None:
    text = "permanently remove all pairs of some photos, and list models that saw them"
    command = add_command(commands, _forget, "forget", text, "out/demo 3f2a9c01")
    takes_output(command)
    command.add_argument(
        "ids",
        metavar="ID",
        nargs="+",
        help="id of an image (column id, in hex), or its first 8 digits or more; all crops of its photo go",
    )
    takes_wait(command)


def _forget(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import forget

    return forget(options.output, options.ids, options.wait)


def _add_models(commands: Commands) -> None:
    text = "list the models of an output: figures, which one is published or refused"
    takes_output(add_command(commands, _models, "models", text, "out/demo"))


def _models(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.models import list_models

    return list_models(options.output)


def _add_rollback(commands: Commands) -> None:
    text = "publish an earlier model again, and withdraw the published one"
    command = add_command(commands, _rollback, "rollback", text, "out/demo")
    command.add_argument("--to", metavar="VERSION", help="the model; by default the one published before")
    takes_output(command)
    takes_wait(command)


def _rollback(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import rollback

    return rollback(options.output, options.to, options.wait)


def _add_prune(commands: Commands) -> None:
    text = "delete old models; without --yes, only list them"
    command = add_command(commands, _prune, "prune", text, "out/demo --keep 5 --yes")
    command.add_argument(
        "--keep", type=count, metavar="N", help="newest models to keep (publish.keep, or 10)"
    )
    command.add_argument("--yes", action="store_true", help="delete them")
    takes_output(command, ", or the recipe")
    takes_wait(command)


def _prune(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import prune
    from batch_nst.pipelines.models import retention

    return prune(*retention(options.output, options.keep), options.yes, options.wait)


def _add_benchmark(commands: Commands) -> None:
    text = "measure the engine on this machine, next to the baseline"
    command = add_command(commands, _benchmark, "benchmark", text, "--quick")
    add = command.add_argument
    add("--images", metavar="GLOB", default="jobs/samples/content", help="photos")
    add("--styles", metavar="GLOB", default="jobs/samples/styles", help="style images")
    add("--quick", action="store_true", help="2 photos and 1 style image at 128 px; takes minutes")
    add("--model", default="", help="a trained model: how much sooner when starting from its images")
    add("--results", metavar="FILE", default="", help="append measurements here; do not repeat those in it")
    takes_device(command)


def _benchmark(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.benchmark.engine import benchmark

    return benchmark(
        options.images,
        options.styles,
        device=options.device,
        quick=options.quick,
        model=options.model,
        results=options.results,
    )


_ON_RECIPES = (_add_plan, _add_generate, _add_train, _add_evaluate, _add_export, _add_nightly)
_ON_CLUSTERS = (_add_doctor, _add_submit)
_ON_PHOTOS = (_add_try, _add_apply)
_ON_OUTPUTS = (_add_inspect, _add_forget, _add_models, _add_rollback, _add_prune)
_COMMANDS = (*_ON_RECIPES, *_ON_CLUSTERS, *_ON_PHOTOS, *_ON_OUTPUTS, _add_benchmark)
"""Functions that add the commands, in the order of `--help`."""
