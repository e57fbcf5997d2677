"""What SECURITY.md says: what runs code, what is decoded where, who may come in, and what nobody is told."""

import ast
import contextlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import SNAPSHOTS, latest_snapshot, unit_pairs
from batch_nst.data.images.sandbox import Decoder, Limits
from batch_nst.data.models import registry
from batch_nst.data.models.gate import publish
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError, RecipeError, StorageError
from batch_nst.pipelines.nightly import find_finished
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import begin, finish, make_model, make_pairs, objects
from tests.support.photos import JPEG, LIMITS
from tests.support.places import ROOT
from tests.support.sessions import kill
from tests.support.units_job import Order, as_words

CODE = [*(ROOT / "batch_nst").rglob("*.py"), *(ROOT / "jobs").glob("*.py"), *(ROOT / "docs").glob("*.py")]


@cache
def calls(path: Path) -> list[tuple[str, set[str]]]:
    """Every call in a file: what is called, as it is written, and the keywords as they are given."""
    return [
        (ast.unparse(node.func), {ast.unparse(keyword) for keyword in node.keywords})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def calls_of(*names: str) -> list[tuple[str, str, set[str]]]:
    """The calls of all files whose name ends so."""
    return [
        (path.relative_to(ROOT).as_posix(), name, keywords)
        for path in CODE
        for name, keywords in calls(path)
        if name.split(".")[-1] in names
    ]


# --- what runs code


def test_nothing_that_is_loaded_can_run_code() -> None:
    named = calls_of(
        "load", "loads", "load_module", "read_pickle", "unsafe_load", "full_load", "from_pretrained"
    )
    allowed = {
        ("json.loads", frozenset()),
        ("np.load", frozenset()),  # without allow_pickle: refuses objects
        ("yaml.load", frozenset()),  # of `_Yaml`, see below
        ("safetensors.torch.load", frozenset()),
        ("load", frozenset()),  # safetensors', in engine/fast_model/network.py
        ("image.load", frozenset()),
        ("tags.load", frozenset()),  # of a TIFF, by Pillow
        ("objectives.load", frozenset()),
        ("self._objectives.load", frozenset()),
        ("self.load", frozenset()),  # of VGG-16, in generate/stylizer.py
        ("stylizer.load", frozenset()),
        ("torch.load", frozenset({"map_location='cpu'", "weights_only=True"})),
    }
    assert {(name, frozenset(keywords)) for _, name, keywords in named} <= allowed
    assert {path for path, name, _ in named if name == "yaml.load"} == {"batch_nst/recipe_file.py"}
    assert {path for path, name, _ in named if name == "load"} == {"batch_nst/engine/fast_model/network.py"}
    assert (
        "from safetensors.numpy import load\n"
        in (ROOT / "batch_nst/engine/fast_model/network.py").read_text()
    )
    assert "class _Yaml(yaml.SafeLoader)" in (ROOT / "batch_nst/recipe_file.py").read_text()


def test_nothing_is_evaluated_and_no_shell_is_asked() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "importlib.import_module", "os.system", "os.popen"}
    assert {name for path in CODE for name, _ in calls(path)} & forbidden == set()
    for name in ("run", "Popen", "check_output"):
        assert not any("shell=True" in keywords for _, _, keywords in calls_of(name))
    forbidden = (
        r"trust_remote_code|allow_pickle|weights_only=False|\b(import|from) (pickle|dill|joblib|marshal)\b"
    )
    assert [path for path in CODE if re.search(forbidden, path.read_text())] == []


# --- what is decoded where


def test_photos_are_decoded_by_the_decoder_alone() -> None:
    found = {path for path, _, _ in calls_of("decode") if "codec.decode" in (ROOT / path).read_text()}
    timed = {"docs/apply_speed.py", "docs/decoder_cost.py"}  # on one's own photos, to tell what it costs
    assert found - timed == {"batch_nst/data/images/sandbox.py"}
    imported = [path for path in CODE if re.search(r"codec import .*\bdecode\b", path.read_text())]
    assert imported == []


def test_every_other_picture_is_opened_as_one_of_few_formats() -> None:
    opened = calls_of("open")
    pictures = [(path, keywords) for path, name, keywords in opened if name == "Image.open"]
    pictures = [(path, keywords) for path, keywords in pictures if path.startswith("batch_nst/")]
    assert len(pictures) >= 4
    for path, keywords in pictures:
        assert any(keyword.startswith("formats=") for keyword in keywords), path


def test_the_process_of_a_command_decodes_no_stored_picture() -> None:
    workers = {
        *("data/images/codec", "data/dataset/sampler"),
        *("pipelines/evaluate/actors", "pipelines/train/log"),
        "data/dataset/pairs",  # `read_pairs`, in the process of who calls it from Python; no command does
    }
    found = {path for path, _, _ in calls_of("decode_stored")}
    assert found == {f"batch_nst/{name}.py" for name in workers}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_decoder_gets_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, "planted")
    with closing(Decoder(Limits(**LIMITS, max_seconds=10))) as decoder:
        assert decoder.crops(JPEG, 8, [(0, b"")])
        environment = Path(f"/proc/{decoder.pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"planted" not in environment


# --- what was tampered with


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return begin(tmp_path)


def edit(store: Store, name: str, change: Callable[[Any], None]) -> None:
    document = json.loads(store.read(name))
    change(document)
    store.replace(name, json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["units"][0].update(digest="0" * 32),
        lambda document: document["units"].pop(),
        lambda document: document["left_out"].append("00" * 16),
        lambda document: document["quality"]["left_out"]["blew_up"].append("00" * 16),
        lambda document: document.update(digest="0" * 32),
    ],
)
def test_a_snapshot_that_lists_something_else_is_refused_by_name(
    file: Path, change: Callable[[Any], None]
) -> None:
    recipe = load_recipe(file)
    store = Store(recipe.output)
    make_pairs(recipe)
    assert latest_snapshot(store)
    edit(store, f"{SNAPSHOTS}/000001.json", change)
    with pytest.raises(
        StorageError, match=r"snapshots/000001\.json: is damaged: the digest of what it lists is"
    ):
        latest_snapshot(store)


def test_a_unit_in_the_place_of_another_is_refused_by_name(file: Path) -> None:
    recipe = load_recipe(file)
    store = Store(recipe.output)
    snapshot = make_pairs(recipe)
    first, second = (unit["unit"] for unit in snapshot.units)
    store.replace(units.unit_object(first), store.read(units.unit_object(second)))
    with pytest.raises(StorageError, match=rf"{first}\.parquet: its digest is .* but snapshot 1 says"):
        list(unit_pairs(store, snapshot, first, "train"))
    with pytest.raises(StorageError, match=rf"{first}\.parquet: is damaged: it is the unit {second}"):
        units.read_summary(store, first)


def test_a_changed_byte_of_a_pair_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    picture = {"bytes": os.urandom(500), "path": None}
    rows = [
        {
            "id": bytes([number]) * 16,
            "status": "ok",
            "split": "train",
            "content": picture,
            "stylized": picture,
        }
        for number in range(3)
    ]
    units.commit_unit(store, "ab", rows, "0" * 32)
    good, read = store.read(units.unit_object("ab")), units.read_unit(store, "ab")
    at = good.index(picture["bytes"][:200])
    for place in range(at, at + 200, 20):
        data = bytearray(good)
        data[place] ^= 1
        store.replace(units.unit_object("ab"), bytes(data))
        with pytest.raises(StorageError, match=r"ab/ab\.parquet: is damaged: .*(CRC|checksum)"):
            units.read_unit(store, "ab")
    store.replace(units.unit_object("ab"), good)
    assert units.read_unit(store, "ab") == read


@pytest.mark.parametrize("name", [registry.GRAPH, registry.WEIGHTS])
@pytest.mark.parametrize("gone", [False, True])
def test_a_night_is_not_quiet_over_a_damaged_model(
    file: Path, name: str, gone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, store, version = finish(file, {"0": 60.0})
    publish(version, recipe.publish, store, 0)
    assert find_finished(recipe, store)[0]
    part, before = registry.model_object(version, name), objects(store)
    store.delete(part) if gone else store.replace(part, store.read(part) + b"!")
    assert find_finished(recipe, store) == (None, None)
    assert f"not finished: {store.join(part)}: " in capsys.readouterr().err
    assert objects(store).keys() == before.keys() - ({part} if gone else set())


def test_nor_over_a_damaged_published_model_after_a_refusal(file: Path) -> None:
    recipe, store, version = finish(file, {"0": 60.0})
    make_model(store, "000001-aaaaaaaaaaaa", {"0": 1.0})
    publish("000001-aaaaaaaaaaaa", recipe.publish, store, 0)
    with pytest.raises(GateError):
        publish(version, recipe.publish, store, 0)
    found, _ = find_finished(recipe, store)
    assert found is not None
    part = registry.model_object("000001-aaaaaaaaaaaa", registry.WEIGHTS)
    store.replace(part, b"other weights")
    with pytest.raises(registry.WeightsError, match=re.escape(f"{store.join(part)}: sha256 is ")):
        find_finished(recipe, store)


@pytest.mark.parametrize("version", ["../../elsewhere", "..", "/etc", "a/b", ""])
def test_a_pointer_leads_to_no_other_folder(tmp_path: Path, version: str) -> None:
    store = Store(str(tmp_path / "out"))
    pointer = {"version": version, "previous": None, "digests": {}, "token": 1}
    store.replace(registry.CURRENT, json.dumps(pointer).encode())
    with pytest.raises(registry.WeightsError, match=r"models/CURRENT: is damaged: "):
        registry.current(store)


def test_a_plan_leads_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    store = Store(str(tmp_path / "out"))
    for name in ("../secret", "a/../../secret", str(tmp_path / "secret")):
        for touch in (store.read, store.exists, store.delete, lambda name: store.replace(name, b"")):
            with pytest.raises(StorageError, match="the name leads out of"):
                touch(name)
    assert (tmp_path / "secret").read_text() == "x"


# --- what is told to nobody

SECRETS = {
    "AWS_ACCESS_KEY_ID": "known",
    "AWS_SECRET_ACCESS_KEY": "planted-key",
    "AWS_SESSION_TOKEN": "planted-session",
    "AWS_ENDPOINT_URL": "http://user:planted-endpoint@127.0.0.1:1",
    "HF_TOKEN": "planted-hf",
    "RAY_AUTH_TOKEN": f"planted{'0' * 57}",
}
SIGNED = "https://127.0.0.1:1/a.jpg?X-Amz-Signature=planted-signature&X-Amz-Date=1"
HOOK = "http://127.0.0.1:1/planted-hook"
WITH_PASSWORD = "https://user:planted-password@127.0.0.1:1/b.jpg"
PROGRAM = """
import json, sys
from botocore.retries.standard import ExponentialBackoff
from batch_nst import cli
from batch_nst.data.storage import fetch
fetch.MAX_DELAY = 0.01
ExponentialBackoff.delay_amount = lambda *_: 0.01
stdout = sys.stdout
for words in json.loads(sys.argv[1]):
    try:
        cli.main(words)
    except SystemExit:
        sys.stdout = stdout
"""


def give(root: Path) -> Path:
    """A recipe of three good photos and two with credentials, named by a table beside it; its file."""
    folder = root / "given"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.png", "painting.png"):
        Image.effect_noise((80, 80), 64).convert("RGB").save(folder / name)
    uris = ["1.png", "2.png", "3.png", SIGNED, WITH_PASSWORD]
    rows = [f"{key},{uri}" for key, uri in enumerate(uris, 1)]
    (folder / "photos.csv").write_text("\n".join(["key,uri", *rows, ""]))
    document = {
        "output": str(root / "out"),
        "style": {"image": "painting.png", "size": 32},
        "generate": {
            "input": "photos.csv",
            "stores": ["https://127.0.0.1:1"],
            "image_size": 32,
            "unit_images": 2,
            "max_rejected": 1.0,
            "iterations": 2,
        },
        "loss": {"content_layers": {"relu1_1": 1.0}, "style_layers": {"relu1_1": 1.0}},
        "train": {"steps": 2, "batch_size": 2, "width": 8, "crop_size": 32},
        "quality": {"min_change": 0.0},
        "evaluate": {
            "holdout": 0.0,
            "holdout_photos": ["3"],
            "iterations": 2,
            "sizes": [],
            "larger_photos": 0,
            "baseline_photos": 0,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return give(tmp_path)


def run(words: list[str], **environment: str) -> tuple[int, str]:
    ran = subprocess.run(
        words,
        env={**os.environ, **SECRETS, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ran.returncode, ran.stdout + ran.stderr


def commands(*calls: Sequence[object], **environment: str) -> tuple[list[int], str]:
    """The exit codes of commands, one after the other in a process of their own, and all that it told."""
    code, told = run([sys.executable, "-c", PROGRAM, json.dumps(calls, default=str)], **environment)
    assert code == 0, told
    figures = [json.loads(line) for line in told.splitlines() if line.startswith('{"command"')]
    return [each["exit_code"] for each in figures], told


def written(folder: Path) -> dict[str, str]:
    """All that lies in a folder, Parquet as its rows and metadata as well."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = f"{path} {path.read_bytes().decode(errors='replace')}"
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found[str(path)] += (
                f"{table.to_pylist()} {table.schema.metadata} {pq.read_metadata(path).metadata}"
            )
    return found


def assert_untold(*texts: str) -> None:
    for text in texts:
        places = [text[max(0, each.start() - 200) : each.end() + 50] for each in re.finditer("planted", text)]
        assert places == []


def test_no_secret_is_told_or_written(named: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told = run(as_words(Order(load_recipe(named).model_dump())), AWS_ENDPOINT_URL="")
    assert code == 0, told
    assert json.loads(told.splitlines()[-1])["rejected"] == 2, told
    calls = ["plan", named], ["inspect", out, "--out", out / "inspect.html"], ["models", out], ["prune", out]
    codes, told_later = commands(*calls)
    assert codes == [0] * 4, told_later
    assert '"found": 5' in told_later
    files = written(out)
    assert sum(path.endswith(".parquet") for path in files) >= 3
    assert "127.0.0.1:1/a.jpg?***" in "".join(files.values())
    assert "https://user:***@127.0.0.1:1/b.jpg" in "".join(files.values())
    assert_untold(told, told_later, *files.values())


@pytest.mark.parametrize(
    "override",
    [
        f"generate.input=[{SIGNED!r}]",
        f"generate.input={WITH_PASSWORD}",
        "generate.stores=[https://planted-x@127.0.0.1]",
        "generate.init=model:s3://key:planted-x@bucket/out",
        "output=s3://key:planted-x@bucket/out",
        "style.image=https://127.0.0.1:1/a.jpg?sig=planted-x",
        "vgg.weights=https://planted-x@127.0.0.1/w",
    ],
)
def test_a_recipe_with_credentials_is_refused_without_telling_them(named: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=rf"{override.partition('=')[0]}.*: given .*\*\*\*") as refused:
        load_recipe(named, [override])
    assert_untold(str(refused.value))
    with pytest.raises(RecipeError) as refused:
        load_recipe(named, [f"nothing={override}", override])
    assert_untold(str(refused.value))


def test_an_output_with_credentials_is_refused_without_telling_them() -> None:
    with pytest.raises(RecipeError, match=r"^output s3://key:\*\*\*@bucket/out: allowed: ") as refused:
        Store("s3://key:planted-x@bucket/out")
    assert_untold(str(refused.value))


def test_no_command_tells_a_secret_when_it_fails(named: Path) -> None:
    said = {
        f"generate.input=[{SIGNED!r}]": "generate.input: given",
        "generate.input=s3://bucket/photos": "cannot list s3://bucket/photos",
        "output=s3://bucket/out": "cannot read s3://bucket/out/",
    }
    codes, told = commands(*(["plan", named, override] for override in said))
    assert codes == [2, 1, 1], told
    assert [each for each in said.values() if each not in told] == []
    assert "Traceback" not in told
    assert_untold(told)


def test_no_secret_is_told_where_a_store_refuses(named: Path, s3: str) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    known = {"AWS_ACCESS_KEY_ID": "tests", "AWS_ENDPOINT_URL": endpoint}
    places = f"generate.input={s3}/none", f"output={s3}/refused"
    codes, told = commands(*(["plan", named, place] for place in places), **known)
    assert 0 not in codes, told
    assert_untold(told)
    reader = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": endpoint}
    words = as_words(Order({**load_recipe(named).model_dump(), "output": f"{s3}/refused"}))
    _, told = run(words, **reader, AWS_SESSION_TOKEN="")
    assert "refused" in told
    assert_untold(told)


class Night(NamedTuple):
    """What was seen of one."""

    told: str
    """On its two streams."""
    written: dict[str, str]
    """Into its output, by name."""
    logs: dict[str, str]
    """And by its Ray."""
    inherited: set[str]
    """Which of the secrets Ray's processes had in their environment."""
    listened: set[tuple[str, str]]
    """Names of its processes, and the addresses that they listened on."""


@pytest.fixture(scope="module")
def night(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A whole one, of a bucket that opens to a planted key alone."""
    home = tmp_path_factory.mktemp("night")
    given, bucket = give(home), fsspec.filesystem("s3")
    bucket.put(f"{given.parent}/", f"{s3}/night/given/", recursive=True)
    places = {
        "output": "out",
        "style.image": "given/painting.png",
        "generate.input": "given/photos.csv",
    }
    words = [f"{key}={s3}/night/{name}" for key, name in places.items()]
    secrets = {**SECRETS, "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], "AWS_SESSION_TOKEN": ""}
    inherited, listened = set(), set()
    # Not pytest's folder: the paths of Ray's sockets are limited to 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="nst", dir="/tmp", ignore_cleanup_errors=True) as ray_home,
        (home / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "batch_nst", "nightly", given, *words, "--notify", HOOK],
            env={
                **os.environ,
                **secrets,
                "HOME": ray_home,
                "RAY_TMPDIR": ray_home,
                "RAY_AUTH_MODE": "token",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as command,
    ):
        try:
            while command.poll() is None:
                for process in family(command.pid):
                    with contextlib.suppress(psutil.Error):  # it has ended
                        if process.name() == "raylet":
                            inherited |= set(process.environ().values()) & set(secrets.values())
                        listened |= {
                            (process.name(), each.laddr.ip)
                            for each in process.net_connections("tcp")
                            if each.status == psutil.CONN_LISTEN
                        }
                time.sleep(0.5)
        finally:
            kill(command)
        told = (home / "log").read_text()
        assert command.returncode == 0, told
        bucket.get(f"{s3}/night/out/", f"{home}/out/", recursive=True)
        yield Night(told, written(home / "out"), written(Path(ray_home)), inherited, listened)


def family(pid: int) -> list[psutil.Process]:
    """A process, and all that have come of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []


@pytest.mark.slow
def test_a_night_tells_and_writes_no_secret(night: Night) -> None:
    assert {each for each in SECRETS.values() if "planted" in each} - night.inherited == {
        "planted-session",
        SECRETS["AWS_ENDPOINT_URL"],
    }
    assert '"published": true' in night.told
    assert "warning: --notify http://127.0.0.1: the figures were not delivered" in night.told
    names = "\n".join(night.written)
    for part in ("dataset.json", "plan/", "data/", "snapshots/", "summary.json", "report.html", "model.onnx"):
        assert part in names
    assert names.count("README.md") == 2
    assert any(path.endswith("raylet.out") for path in night.logs)
    assert any("worker-" in path for path in night.logs)
    for told in ("127.0.0.1:1/a.jpg?***", "https://user:***@127.0.0.1:1/b.jpg"):
        assert told in "".join(night.written.values())
    assert_untold(night.told, *night.written.values(), *night.logs.values())


# --- who may come in


def test_every_ray_that_is_started_has_no_dashboard() -> None:
    started = [keywords for _, name, keywords in calls_of("init") if name == "ray.init"]
    assert len(started) == 1
    assert all("include_dashboard=False" in keywords for keywords in started)


def test_no_page_shows_a_ray_without_its_token() -> None:
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    shown = 0
    for page in pages:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            if "ray start" in block:
                shown += 1
                assert "RAY_AUTH_MODE=token" in block.partition("ray start")[0], page
            assert not re.search(r"dashboard-host[= ](?!127\.0\.0\.1)", block), page
            assert "RAY_AUTH_MODE=disabled" not in block
    assert shown


@pytest.mark.slow
def test_a_night_listens_on_loopback_but_for_the_store_of_torch(night: Night) -> None:
    assert {"gcs_server", "raylet"} <= {name for name, _ in night.listened}
    listened = {(name.partition(":")[0], address.removeprefix("::ffff:")) for name, address in night.listened}
    # By which training's workers find each other: torch has it listen everywhere, whatever it is told.
    assert {each for each in listened if not ipaddress.ip_address(each[1]).is_loopback} == {("ray", "::")}


OWNER = """
import os
from batch_nst.pipelines.cluster import connect
connect.connect()
import ray
print(os.environ["RAY_AUTH_MODE"], ray.get_runtime_context().gcs_address, flush=True)
input()
"""
VISITOR = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.nodes())"


@pytest.mark.slow
def test_a_ray_inside_a_command_asks_for_the_token() -> None:
    with tempfile.TemporaryDirectory(prefix="nst", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {"HOME": folder, "RAY_TMPDIR": folder}
        with subprocess.Popen(
            [sys.executable, "-c", OWNER],
            env={**environment, "RAY_ADDRESS": "local"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            assert owner.stdout
            mode, address = owner.stdout.readline().split()
            assert (mode, address.partition(":")[0]) == ("token", "127.0.0.1")

            def visit(**more: str) -> tuple[int, str]:
                ran = subprocess.run(
                    [sys.executable, "-c", VISITOR, address],
                    # Else Ray would look for the address of this machine in place of 127.0.0.1.
                    env={**environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **more},
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                return ran.returncode, ran.stderr

            with ThreadPoolExecutor() as pool:  # who is refused is refused late
                friend = pool.submit(visit, RAY_AUTH_MODE="token")
                strangers = [
                    pool.submit(visit, RAY_AUTH_MODE="disabled"),
                    pool.submit(visit, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
                ]
            assert friend.result()[0] == 0
            for stranger in strangers:
                code, told = stranger.result()
                assert code != 0
                assert re.search("(?i)unauthenticated|authenticat|token", told), told
            owner.communicate("\n")
            assert owner.returncode == 0
