"""Commands that look after an output, with their options: `inspect`, `forget`, `models` and more."""

from __future__ import annotations

import argparse

from batch_nst.arguments import Commands, add_command, count, takes_output, takes_wait


def add_inspect(commands: Commands) -> None:
    """Add `inspect`."""
    text = "write a page about the pairs: counts, speed, the best and the worst"
    command = add_command(commands, _inspect, "inspect", text, "out/demo")
    takes_output(command)
    command.add_argument(
        "--out", metavar="FILE", default="inspect.html", help="where to write the page (inspect.html)"
    )


def _inspect(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.reports.dataset import inspect

    return inspect(options.output, options.out)


def add_forget(commands: Commands) -> None:
    """Add `forget`."""
    text = "permanently delete the pairs of some photos; list models that saw them"
    command = add_command(commands, _forget, "forget", text, "out/demo 3f2a9c01")
    takes_output(command)
    command.add_argument(
        "ids",
        metavar="ID",
        nargs="+",
        help="id of an image (column id, in hex), or its first 8 digits or more; its whole photo goes",
    )
    takes_wait(command)


def _forget(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import forget

    return forget(options.output, options.ids, options.wait)


def add_models(commands: Commands) -> None:
    """Add `models`."""
    text = "list the models: how good each is, which is published"
    takes_output(add_command(commands, _models, "models", text, "out/demo"))


def _models(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.models import list_models

    return list_models(options.output)


def add_rollback(commands: Commands) -> None:
    """Add `rollback`."""
    text = "go back to an earlier model; the published one is withdrawn"
    command = add_command(commands, _rollback, "rollback", text, "out/demo")
    command.add_argument("--to", metavar="VERSION", help="which model (the one published before)")
    takes_output(command)
    takes_wait(command)


def _rollback(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import rollback

    return rollback(options.output, options.to, options.wait)


def add_prune(commands: Commands) -> None:
    """Add `prune`."""
    text = "delete old models; without --yes, only list them"
    command = add_command(commands, _prune, "prune", text, "out/demo --keep 5 --yes")
    text = "how many of the newest to keep (the recipe's publish.keep, or 10)"
    command.add_argument("--keep", type=count, metavar="N", help=text)
    command.add_argument("--yes", action="store_true", help="delete them")
    takes_output(command, "; or its recipe")
    takes_wait(command)


def _prune(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.commands import prune
    from batch_nst.pipelines.models import retention

    return prune(*retention(options.output, options.keep), options.yes, options.wait)
