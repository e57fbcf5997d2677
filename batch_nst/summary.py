"""What a command says last on a terminal: what was made, where to look, and the next command."""

from __future__ import annotations

import shlex
from argparse import Namespace


def summary(command: str, options: Namespace, figures: Namespace) -> list[str]:
    """Two to five lines about a command that is done.

    Args:
        command: its name.
        options: its options.
        figures: those of its JSON line.
    """
    told = _COMMANDS[command](options, figures) if command in _COMMANDS else []
    return [f"{word:<6}{text}" for word, text in told if text]


_Told = list[tuple[str, str]]


def _call(command: str, *words: object) -> str:
    return shlex.join(["batch-nst", command, *map(str, words)])


def _on_recipe(command: str, options: Namespace) -> str:
    """A command on the same recipe, with the same overrides."""
    return _call(command, options.recipe, *options.overrides)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _plan(options: Namespace, figures: Namespace) -> _Told:
    to_do, hours = figures.to_do, figures.device_hours
    cost = f", about {hours:,.1f} device-hours" if hours else ""
    return [
        ("made", f"nothing; {to_do:,} of {_counted(figures.found, 'image')} are to be made{cost}"),
        ("next", _on_recipe("generate" if to_do else "train", options)),
    ]


def _init(_: Namespace, figures: Namespace) -> _Told:
    return [("made", figures.recipe), ("next", figures.next)]


def _generate(options: Namespace, figures: Namespace) -> _Told:
    good = figures.ok + figures.held_out + figures.filtered
    bad = figures.rejected + figures.failed
    others = ((figures.unpaired, "without pairs"), (bad, "bad"), (figures.pending, "pending"))
    left = "".join(f", {n:,} {what}" for n, what in others if n)
    return [
        ("made", f"{_counted(figures.made, 'pair')}; the dataset has {good:,} now{left}"),
        ("look", f"{figures.output}/dataset"),
        ("", _call("inspect", figures.output)),
        ("next", _on_recipe("generate" if figures.pending else "train", options)),
    ]


def _train(options: Namespace, figures: Namespace) -> _Told:
    version = figures.version
    return [
        ("made", f"model {version}, {_counted(figures.steps, 'step')}"),
        ("look", f"{figures.output}/models/{version}/training/index.html"),
        ("next", _on_recipe("evaluate", options)),
    ]


def _evaluate(options: Namespace, figures: Namespace) -> _Told:
    return [
        ("made", f"the scores of model {figures.version}"),
        ("look", getattr(figures, "report", "")),
        ("next", f"{_on_recipe('nightly', options)}  (publishes it, if it is better)"),
    ]


def _export(options: Namespace, figures: Namespace) -> _Told:
    return [
        ("made", f"the ONNX graph of model {figures.version}"),
        ("look", f"{figures.output}/models/{figures.version}"),
        ("", getattr(figures, "page", "")),
        ("next", f"{_on_recipe('nightly', options)}  (publishes it, if it is better)"),
    ]


def _nightly(options: Namespace, figures: Namespace) -> _Told:
    version, output = getattr(figures, "version", None), figures.output
    made = _counted(figures.dataset["made"], "pair")
    state = "published" if getattr(figures, "published", None) else "not published"
    return [
        ("made", "nothing new" if getattr(figures, "nothing_new", None) else made),
        ("", f"model {version}: {state}"),
        ("look", getattr(figures, "report", "") or _call("models", output)),
        ("next", f"{_call('apply', output, 'photo.jpg', 'painted.png')}  (with a photo of yours)"),
    ]


def _doctor(options: Namespace, figures: Namespace) -> _Told:
    skipped = f", {figures.skipped} skipped" if figures.skipped else ""
    return [
        ("made", f"nothing; {_counted(figures.ok, 'check')} passed{skipped}"),
        ("next", _on_recipe("plan", options)),
    ]


def _submit(options: Namespace, figures: Namespace) -> _Told:
    job = figures.submission_id
    again = _call("submit", options.recipe, *options.overrides, "--address", options.address)
    return [
        ("made", f"job {job}: {figures.status}" if job else "no job of this output on the cluster"),
        ("next", f"{again} --status" if job else again),
    ]


def _try(options: Namespace, figures: Namespace) -> _Told:
    photos = _counted(len(figures.photos), "photo")
    return [
        ("made", f"{photos} with {_counted(len(figures.values), 'value')}"),
        ("look", figures.file),
        ("next", f"{_call('generate', options.recipe)} with the value that you like"),
    ]


def _apply(options: Namespace, figures: Namespace) -> _Told:
    there = figures.ok - figures.made
    more = f"; {there:,} there already" if there else ""
    return [("made", f"{_counted(figures.made, 'picture')}{more}"), ("look", options.target)]


def _inspect(options: Namespace, figures: Namespace) -> _Told:
    pairs = sum(figures.counts.get(name, 0) for name in ("ok", "held_out"))
    return [("made", f"a page about {_counted(pairs, 'pair')}"), ("look", figures.file)]


def _forget(options: Namespace, figures: Namespace) -> _Told:
    return [
        ("made", f"{_counted(figures.pairs, 'pair')} of {_counted(figures.photos, 'photo')} are gone"),
        ("next", "take the photos out of the input too, or their next version is made again"),
    ]


def _models(options: Namespace, figures: Namespace) -> _Told:
    published, paint = figures.published, _call("apply", figures.output, "photo.jpg", "painted.png")
    return [
        ("made", f"nothing; {_counted(len(figures.models), 'model')}, published: {published or 'none'}"),
        ("next", paint if published else _call("inspect", figures.output)),
    ]


def _rollback(options: Namespace, figures: Namespace) -> _Told:
    return [("made", f"{figures.version} is published"), ("next", _call("models", options.output))]


def _prune(options: Namespace, figures: Namespace) -> _Told:
    gone, would = len(figures.deleted), len(figures.to_delete)
    keep = ["--keep", options.keep] if options.keep else []
    told = (
        f"nothing; {_counted(would, 'model')} would go"
        if would
        else f"{_counted(gone, 'model')} deleted"
        if gone
        else "nothing; all models stay"
    )
    again = _call("prune", options.output, *keep, "--yes")
    return [("made", told), ("next", again if would else _call("models", options.output))]


def _benchmark(options: Namespace, figures: Namespace) -> _Told:
    seconds = figures.iteration_seconds
    return [
        ("made", f"a measurement: {seconds:.3g} s an iteration of an image, by {figures.engine}"),
        ("look", options.results),
    ]


_COMMANDS = {
    "init": _init,
    "plan": _plan,
    "generate": _generate,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "nightly": _nightly,
    "doctor": _doctor,
    "submit": _submit,
    "try": _try,
    "apply": _apply,
    "inspect": _inspect,
    "forget": _forget,
    "models": _models,
    "rollback": _rollback,
    "prune": _prune,
    "benchmark": _benchmark,
}
