"""Laws of the command line: one line that names the culprit, one JSON object last, telling exit codes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from batch_nst import __version__, cli
from batch_nst.data.dataset.units import DATA
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from tests.support.calls import Call, Ended
from tests.support.places import ROOT

PROMISED = {
    *("plan", "generate", "train", "evaluate", "export", "nightly", "apply", "inspect", "forget", "try"),
    *("models", "rollback", "prune", "init"),
    *("doctor", "submit"),
}


def start(*words: str | Path, folder: Path = ROOT) -> subprocess.Popen[str]:
    """The command, on a terminal of 80 columns and, where it comes to that, on a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "batch_nst", *map(str, words)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    stdout, stderr = process.communicate()
    return Ended(process.returncode, stdout, stderr)


class Project:
    """A folder with a recipe, a painting and photos that are tiny."""

    def __init__(self, root: Path, photos: int, iterations: int) -> None:
        self.recipe, self.output = root / "recipe.yaml", root / "out"
        Image.effect_noise((40, 32), 64).convert("RGB").save(root / "painting.png")
        (root / "photos").mkdir()
        for number in range(photos):
            Image.effect_noise((70, 70), 64).convert("RGB").save(root / "photos" / f"{number}.png")
        document = {
            "output": "out",
            "style": {"image": "painting.png", "size": 32},
            "loss": {"content_layers": {"relu1_2": 1.0}, "style_layers": {"relu1_1": 1.0}},
            "generate": {
                "input": "photos",
                "image_size": 32,
                "iterations": iterations,
                "unit_images": 1,
                "precision": "fp32",
            },
        }
        self.recipe.write_text(yaml.safe_dump(document))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, photos=2, iterations=1)


def test_help_names_every_promised_command(call: Call) -> None:
    assert set(re.findall(r"^    (\w+) ", call("--help").stdout, re.MULTILINE)) >= PROMISED


@pytest.mark.parametrize("command", ["", *sorted(PROMISED)])
def test_help_fits_a_terminal_and_shows_an_example(call: Call, command: str) -> None:
    ended = call(*command.split(), "--help")
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert f"Example: batch-nst {command or 'nightly'}" in ended.stdout


def test_the_version_is_that_of_the_package(call: Call) -> None:
    assert call("--version") == (0, f"batch-nst {__version__}\n", "")


def assert_refused(ended: Ended, command: str | None, *told: str) -> None:
    """Exit code 2, and one line that names the culprit; nothing else on standard error."""
    assert ended.code == 2, ended.stderr
    name = f"batch-nst {command}" if command else "batch-nst"
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"{name}: ")
    for part in told:
        assert part in ended.stderr
    error = ended.stderr.removeprefix(f"{name}: ").removesuffix("\n")
    assert ended.stdout.count("\n") == 1
    assert ended.figures == {"command": command, "exit_code": 2, "error": error}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plot"], "'plot'"),
        (["trian", "recipe.yaml"], "; did you mean train?"),
        (["--versoin"], "unknown: --versoin; did you mean --version?"),
        (["apply", "model", "in", "out", "--keep-colours"], "; did you mean --keep-colors?"),
        (["apply", "model", "in", "out", "--device", "cudda"], "; did you mean cuda?"),
        (["apply", "model", "in", "out", "--device", "gpu"], "'gpu' (choose from"),
        (["plan"], "RECIPE"),
        (["apply", "model"], "IN, OUT"),
        (["inspect"], "OUTPUT"),
        (["forget", "out"], "ID"),
        (["prune", "out", "--keep", "0"], "--keep: given '0'; allowed: a whole number, 1 or more"),
        (["plan", "recipe.yaml", "--quick"], "--quick"),
        (["apply", "model", "in", "out", "more"], "more"),
        (["try"], "RECIPE"),
        (["doctor"], "RECIPE"),
        (["submit"], "RECIPE"),
        (["submit", "recipe.yaml", "--stop", "--detach"], "--detach: not allowed with argument --stop"),
        (["submit", "recipe.yaml", "--nightly", "--command", "train"], "not allowed with argument --nightly"),
        (["submit", "recipe.yaml", "--command", "apply"], "invalid choice: 'apply'"),
        (["nightly", "recipe.yaml", "--deadline", "6 am"], "given '6 am'; allowed: a time of day"),
        (["submit", "recipe.yaml", "--deadline", "24:00"], "given '24:00'; allowed: a time of day"),
        (["generate", "recipe.yaml", "--notify", "https://x"], "unknown: --notify"),
        (["try", "recipe.yaml", "--photos", "0"], "--photos: given '0'; allowed: a whole number, 1 or more"),
        (["apply", "model", "in", "out", "--strength", "1.5"], "given '1.5'; allowed: a number from 0 to 1"),
        (["apply", "model", "in", "out", "--strength", "nan"], "given 'nan'; allowed: a number from 0 to 1"),
        *(
            (
                ["plan", "recipe.yaml", f"--price-per-device-hour={price}"],
                f"--price-per-device-hour: given {price!r}; allowed: a number, 0 or more; see ",
            )
            for price in ("-1", "much", "nan", "inf", "")
        ),
    ],
)
def test_a_wrong_call_is_refused(call: Call, words: list[str], told: str) -> None:
    assert_refused(call(*words), None, told, "--help`")


def test_no_command_is_help_and_exit_code_2(call: Call) -> None:
    assert call() == (2, "", call("--help").stdout)


@pytest.mark.parametrize(
    "command", ["plan", "generate", "train", "evaluate", "export", "nightly", "doctor", "submit"]
)
def test_a_typo_in_an_override_is_refused_by_every_command(
    call: Call, project: Project, command: str
) -> None:
    ended = call(command, project.recipe, "generate.iteration=5")
    assert_refused(ended, command, "generate.iteration: unknown key; allowed here: ", "iterations")
    assert not project.output.exists()


def test_a_plan_ends_with_its_counts(call: Call, project: Project) -> None:
    ended = call("plan", project.recipe, "train.batch_size=1")
    counts = {"photos": 2, "found": 2, "done": 0, "rejected": 0, "to_do": 2, "unpaired": 0, "gone": 0}
    unknown = (
        "device",
        "devices",
        "device_hours",
        "hours",
        "bytes_read",
        "bytes_written",
        "price",
        "rates_from",
    )
    assert (ended.code, ended.stdout.count("\n")) == (0, 1)
    assert ended.figures == {
        "command": "plan",
        "exit_code": 0,
        **counts,
        "passed_over": {},
        "store_requests": {"reads": 0, "writes": 0, "lists": 0},
        **dict.fromkeys(unknown),
        "steps": {
            **dict.fromkeys(
                ("pairs", "training", "scoring", "in_all"),
                dict.fromkeys(("device_hours", "hours", "price")),
            ),
            "rates_from": None,
        },
        "refused": [],
    }
    assert "device-hours not known before the first images are made; --calibrate tries a few" in ended.stderr
    assert not project.output.exists()


def test_a_plan_that_train_would_refuse_ends_with_1_and_its_counts(call: Call, project: Project) -> None:
    ended = call("plan", project.recipe)
    (told,) = ended.figures["refused"]
    assert (ended.code, ended.figures["error"], ended.figures["to_do"]) == (1, told, 2)
    assert ended.stderr.endswith(f"batch-nst plan: {told}\n")


def test_overrides_and_options_may_stand_in_any_order(call: Call, project: Project) -> None:
    ended = call("generate", "--wait", project.recipe, "generate.crops=2", "--retry", "generate.crops=none")
    assert_refused(ended, "generate", "generate.crops: given 'none'; allowed: a whole number")


def test_a_lease_held_by_another_process_is_exit_code_4_and_names_it(project: Project) -> None:
    with acquire(Store(str(project.output)), "nightly"):
        ended = end(start("generate", project.recipe))
    assert ended.code == 4
    assert ended.stderr.count("\n") == 1
    assert f"(pid {os.getpid()}, nightly) until " in ended.stderr
    assert ended.figures["exit_code"] == 4
    assert not (project.output / "dataset").exists()


@pytest.mark.slow
def test_sigterm_ends_with_143_and_the_next_start_continues(tmp_path: Path) -> None:
    project = Project(tmp_path, photos=12, iterations=100)
    process = start("generate", project.recipe)
    committed = project.output / DATA
    while not (done := list(committed.rglob("*.parquet"))):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = end(process)
    assert stopped.code == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    message = "stopped by SIGTERM; start it again and it continues"
    assert stopped.stderr.splitlines()[-1] == f"batch-nst generate: {message}"
    [file] = (project.output / "runs").glob("*-generate/summary.json")
    summary = json.loads(file.read_text())
    told = stopped.figures
    assert told["exit_code"] == 143
    for figures in (told, summary):
        assert (figures["command"], figures["error"]) == ("generate", message)
        assert (figures["run"], figures["output"]) == (file.parent.name, str(project.output))
    [lease] = (project.output / "lease").iterdir()
    assert json.loads(lease.read_text())["released"] is True
    before = {path: path.stat().st_mtime_ns for path in committed.rglob("*.parquet")}
    assert len(done) <= len(before) < 12
    finished = end(start("generate", project.recipe))
    assert finished.code == 0, finished.stderr
    assert finished.figures["made"] == 12 - len(before)
    assert finished.figures["ok"] + finished.figures["held_out"] == 12
    assert {path: path.stat().st_mtime_ns for path in before} == before


RAY_DIED = "Ray has died under this command; did memory or a disk run out?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "how", "code", "reason"),
    [
        pytest.param("raylet/raylet ", signal.SIGKILL, 143, "stopped by SIGTERM", marks=pytest.mark.chaos),
        ("", signal.SIGTERM, 143, "stopped by SIGTERM"),
        ("raylet/raylet ", signal.SIGKILL, 1, RAY_DIED),
        pytest.param("gcs/gcs_server ", signal.SIGKILL, 1, RAY_DIED, marks=pytest.mark.chaos),
    ],
)
def test_whichever_of_its_processes_dies_a_command_ends_with_one_line_and_continues(
    tmp_path: Path, others: str, how: signal.Signals, code: int, reason: str
) -> None:
    """Linux ends a part of Ray, as memory runs out; or systemd asks all of them to end."""
    project = Project(tmp_path, photos=12, iterations=100 if code == 143 else 1000)
    process = start("generate", project.recipe)
    while not list((project.output / DATA).rglob("*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    hit = 0
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            if others in " ".join(child.cmdline()):
                child.send_signal(how)
                hit += 1
    assert hit
    if code == 143:
        process.send_signal(signal.SIGTERM)
    stopped = end(process)
    message = f"{reason}; start it again and it continues"
    assert stopped.code == code, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == f"batch-nst generate: {message}"
    assert "Traceback" not in stopped.stderr
    assert (stopped.figures["exit_code"], stopped.figures["error"]) == (code, message)
    assert stopped.stdout.count("\n") == 1
    [lease] = (project.output / "lease").iterdir()
    assert json.loads(lease.read_text())["released"] is True


@pytest.mark.parametrize("command", ["plan", "generate", "train", "evaluate", "export", "nightly", "doctor"])
def test_ctrl_c_is_exit_code_130(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f"_{command}", interrupted)
    ended = call(command, "recipe.yaml")
    assert (ended.code, ended.figures["exit_code"]) == (130, 130)
    assert "Traceback" not in ended.stderr


LATE = """
import atexit
from batch_nst import cli
atexit.register(lambda: print("at the end"))
cli._plan = lambda options: print("meanwhile") or {"found": 1}
cli.main(["plan", "recipe.yaml"])
"""


def test_what_libraries_print_is_no_figure() -> None:
    ran = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert json.loads(ran.stdout) == {"command": "plan", "exit_code": 0, "found": 1}
    assert ran.stderr.splitlines() == ["meanwhile", "at the end"]


@pytest.mark.parametrize(
    ("words", "continues"),
    [
        *(([command, "recipe.yaml"], True) for command in ("generate", "train", "nightly")),
        *(([command, "recipe.yaml"], False) for command in ("evaluate", "plan")),
        (["try", "recipe.yaml", "loss.style_weight=1,2"], False),
        (["apply", "model", "in", "out"], True),
        (["apply", "model", "in", "out", "--overwrite"], False),
        (["apply", "model", "in.png", "out.PNG"], False),
    ],
)
def test_sigterm_promises_to_continue_only_what_continues(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str], continues: bool
) -> None:
    monkeypatch.setattr(cli, f"_{words[0]}", lambda options: signal.raise_signal(signal.SIGTERM))
    ended = call(*words)
    more = "; start it again and it continues" if continues else ""
    assert (ended.code, ended.stderr) == (143, f"batch-nst {words[0]}: stopped by SIGTERM{more}\n")


SIGINT = """
import os, signal, subprocess, sys
from batch_nst import cli
def run(options):
    os.kill(os.getpid(), signal.SIGINT)
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    subprocess.run([sys.executable, "-c", child], stdout=sys.stderr, check=True)
    return {}
cli._plan = run
signal.signal(signal.SIGINT, signal.SIG_IGN)
cli.main(["plan", "recipe.yaml"])
"""


def test_in_the_background_ctrl_c_is_ignored_by_the_command_and_not_by_its_workers() -> None:
    ran = subprocess.run([sys.executable, "-c", SIGINT], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "True\n")
