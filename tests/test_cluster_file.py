"""Laws of `cluster.yaml`: Ray's and EC2's own schemas, checked offline, and what no schema can see."""

import copy
import os
import re
import shlex
import subprocess
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax, validate_node_labels
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.scripts.scripts import start

from tests.support.places import ROOT

VARIANTS = {"image": "aws", "gcp": "gcp", "hosts": "local"}
"""With the provider of each."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read(text: str) -> dict[str, Any]:
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


@pytest.fixture
def raw() -> dict[str, Any]:
    return read((ROOT / "cluster.yaml").read_text())


def variant(name: str) -> dict[str, Any]:
    """The file with the lines of a variant uncommented, as its comment says."""
    sed = ["sed", f"s/^#{name} //", "cluster.yaml"]
    text = subprocess.run(sed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"sed 's/^#{name} //' cluster.yaml" in text
    return read(text)


@pytest.fixture
def cluster(raw: dict[str, Any]) -> dict[str, Any]:
    """As Ray sees it: with defaults filled in and setup commands merged."""
    return checked(raw)


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(raw))
    validate_config(prepared)
    return prepared


def start_commands(cluster: dict[str, Any]) -> list[str]:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    found = [command for command in commands if "ray start" in command]
    assert len(found) == 2
    return found


def start_options(command: str) -> dict[str, Any]:
    """What `ray start` understands of a command; a misspelt option is refused."""
    context = start.make_context("start", shlex.split(command.rpartition("ray start")[2]))
    return dict(context.params)


# --- schemas


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_passes_rays_own_check(name: str) -> None:
    """As the file itself does, in the fixture `cluster`."""
    assert checked(variant(name))["provider"]["type"] == VARIANTS[name]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("", "idle_timeout_minutes"),
        ("", "available_node_types/gpu_on_demand/min_workers"),
        ("", "docker"),
        ("image", "docker/run_options"),
        ("gcp", "available_node_types/gpu_on_demand/labels"),
        ("hosts", "auth/ssh_user"),
    ],
)
def test_a_misspelt_key_is_refused(raw: dict[str, Any], name: str, path: str) -> None:
    *sections, key = path.split("/")
    given = holder = variant(name) if name else raw
    for section in sections:
        holder = holder[section]
    holder[f"{key}_"] = holder.pop(key, {})
    with pytest.raises(jsonschema.ValidationError, match=f"'{key}_' was unexpected"):
        checked(given)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_says_and_keeps_the_rest(name: str, raw: dict[str, Any]) -> None:
    changed = {key for key, value in variant(name).items() if value != raw.get(key)}
    assert (
        changed
        == {
            "image": {"docker", "file_mounts", "initialization_commands", "setup_commands"},
            "gcp": {"provider", "available_node_types", "head_setup_commands", "worker_setup_commands"},
            "hosts": {*("provider", "auth", "max_workers"), "available_node_types", "head_node_type"}
            | {"head_start_ray_commands"},
        }[name]
    )


def test_the_head_of_hosts_differs_in_its_cpus_alone(raw: dict[str, Any]) -> None:
    starts = variant("hosts")["head_start_ray_commands"]
    assert [command.replace(" --num-cpus=0", "") for command in starts] == raw["head_start_ray_commands"]
    assert start_options(starts[-1])["num_cpus"] == 0
    assert len(variant("hosts")["provider"]["worker_ips"]) == variant("hosts")["max_workers"]


def test_gcp_has_the_same_kinds_of_nodes(raw: dict[str, Any]) -> None:
    ours, theirs = raw["available_node_types"], variant("gcp")["available_node_types"]
    kinds = [
        {(*node["labels"].values(), node["max_workers"]) for node in types.values()}
        for types in (ours, theirs)
    ]
    assert kinds[0] == kinds[1]
    for node in theirs.values():
        spot = node["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert spot == (node["labels"]["batch-nst/capacity"] == "spot")


def test_an_unknown_head_type_is_refused(raw: dict[str, Any]) -> None:
    raw["head_node_type"] = "haed"
    with pytest.raises((ValueError, KeyError)):
        checked(raw)


def node_config_faults(config: dict[str, Any]) -> str:
    """What EC2's RunInstances would not take."""
    operation = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    report = botocore.validate.ParamValidator().validate(
        {"MinCount": 1, "MaxCount": 1, **config}, operation.input_shape
    )
    return str(report.generate_report())


def test_ec2_knows_every_key_of_the_node_configs(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert [node_config_faults(node["node_config"]) for node in types.values()] == [""] * len(types)
    misspelt = {**types["gpu_spot_l40s"]["node_config"], "InstanceMarketOptions": {"MarketTyp": "spot"}}
    assert "MarketTyp" in node_config_faults(misspelt)


def test_ray_start_knows_every_option(cluster: dict[str, Any]) -> None:
    head, worker = (start_options(command) for command in start_commands(cluster))
    assert head["head"]
    assert not worker["head"]
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    # Ray refuses less than 75 MiB; the smallest node (32 GiB) must keep memory for torch.
    for options in (head, worker):
        assert 1 << 30 <= options["object_store_memory"] <= 4 << 30


def test_every_command_is_a_shell_command(cluster: dict[str, Any]) -> None:
    for section, commands in cluster.items():
        if section.endswith("_commands"):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True)


# --- machines


def test_the_head_is_on_demand_and_runs_no_tasks(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_are_scaled_from_zero_and_64_gpus_may_come_as_spot_machines_or_not(
    cluster: dict[str, Any],
) -> None:
    types = dict(cluster["available_node_types"])
    del types[cluster["head_node_type"]]
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in types.values())
    gpus = [node for node in types.values() if node["resources"].get("GPU")]
    cpus = [node for node in types.values() if not node["resources"].get("GPU")]
    assert len({str(node["resources"]) for node in gpus}) == 1  # else Ray does not choose by name
    assert [node["max_workers"] for node in gpus] == [64] * len(gpus)
    assert [node["labels"]["batch-nst/capacity"] for node in gpus].count("on-demand") == 1
    assert cluster["max_workers"] == 64 + sum(node["max_workers"] for node in cpus)


GPU, CPU = {"GPU": 1, "CPU": 0.5}, {"CPU": 1}


@pytest.mark.parametrize(
    ("gone", "asked", "chosen"),
    [
        ([], GPU, "gpu_spot_l40s"),
        (["gpu_spot_l40s"], GPU, "gpu_spot_a10g"),
        (["gpu_spot_l40s", "gpu_spot_a10g"], GPU, "gpu_on_demand"),
        (["gpu_spot_l40s", "gpu_spot_a10g", "gpu_on_demand"], GPU, "gpu_spot_l40s"),  # once more
        ([], CPU, "cpu_worker"),
        (["cpu_worker"], CPU, "cpu_worker"),  # a GPU is not for what needs none
    ],
)
def test_the_autoscaler_takes_spot_machines_first_and_on_demand_where_there_are_none(
    cluster: dict[str, Any], gone: list[str], asked: dict[str, float], chosen: str
) -> None:
    """Ray's own choice, with the scorer that the head names."""
    (scorer,) = re.findall(r"RAY_AUTOSCALER_UTILIZATION_SCORER=([\w.]+);", start_commands(cluster)[0])
    tracker = NodeProviderAvailabilityTracker()
    for name in gone:
        failure = NodeLaunchException("InsufficientInstanceCapacity", "none left", None)
        tracker.update_node_availability(name, int(time.time()), failure)
    score = partial(load_function_or_class(scorer), node_availability_summary=tracker.summary())
    types, head = cluster["available_node_types"], cluster["head_node_type"]
    added, left = get_nodes_for(types, {head: 1}, head, 64, [asked] * 8, score)
    assert (set(added), left) == ({chosen}, [])
    full = {head: 1} | {name: node["max_workers"] for name, node in types.items() if name != head}
    assert get_nodes_for(types, full, head, 64, [asked], score) == ({}, [asked])


def test_an_image_has_all_that_the_file_sets_up_else() -> None:
    image, ours = checked(variant("image")), yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert image["docker"]["image"] in (ROOT / "docs/kubernetes/Containerfile").read_text()
    assert not any("pip" in command for command in image["setup_commands"])
    for key in ("available_node_types", "head_start_ray_commands", "worker_start_ray_commands"):
        assert variant("image")[key] == ours[key]


def test_resources_and_images_are_declared_for_each_type(cluster: dict[str, Any]) -> None:
    for name, node in cluster["available_node_types"].items():
        assert "CPU" in node["resources"], name
        # Ray fills in Ubuntu 18.04 where there is none.
        assert re.match(r"resolve:ssm:/aws/service/|ami-[0-9a-f]{17}$", node["node_config"]["ImageId"]), name
        assert node["node_config"]["IamInstanceProfile"]["Name"], name


def test_labels_are_such_as_ray_takes_and_tell_the_truth(cluster: dict[str, Any]) -> None:
    for name, node in cluster["available_node_types"].items():
        validate_node_labels(node["labels"])
        validate_node_label_syntax(node["labels"])
        spot = "InstanceMarketOptions" in node["node_config"]
        role = "head" if name == "head" else "gpu" if "GPU" in node["resources"] else "cpu"
        capacity = "spot" if spot else "on-demand"
        assert node["labels"] == {"batch-nst/role": role, "batch-nst/capacity": capacity}


# --- what is kept on a node


def test_old_sessions_go_and_nothing_else(cluster: dict[str, Any], tmp_path: Path) -> None:
    long_ago = time.time() - 20 * 86400
    for name in ("session_2026-01-01_00-00-00", "session_2026-02-02_00-00-00", "other"):
        (tmp_path / "ray" / name / "logs").mkdir(parents=True)
    for old in ("session_2026-01-01_00-00-00", "other"):
        os.utime(tmp_path / "ray" / old, (long_ago, long_ago))
    (tmp_path / "ray" / "session_latest").symlink_to("session_2026-02-02_00-00-00")
    for kind in ("head", "worker"):
        stop, clean, _ = cluster[f"{kind}_start_ray_commands"]
        assert stop == "ray stop"
        for root in (tmp_path / "ray", tmp_path / "none"):
            subprocess.run(["bash", "-c", clean.replace("/tmp/ray", str(root))], check=True)
    kept = {path.name for path in (tmp_path / "ray").iterdir()}
    assert kept == {"session_2026-02-02_00-00-00", "session_latest", "other"}


# --- who may come in


def test_the_dashboard_is_on_loopback(cluster: dict[str, Any]) -> None:
    for command in start_commands(cluster):
        assert start_options(command)["dashboard_host"] in LOOPBACK
    assert "--dashboard-host=127.0.0.1" in start_commands(cluster)[0]


@pytest.mark.parametrize(
    "setting",
    [
        "RAY_AUTH_MODE=token",
        "RAY_USAGE_STATS_ENABLED=0",
        r"RAY_ROTATION_MAX_BYTES=\d{8,9}",
        "RAY_ROTATION_BACKUP_COUNT=[1-9]",
    ],
)
def test_every_node_asks_for_the_token_tells_nobody_and_rotates_its_logs(
    cluster: dict[str, Any], setting: str
) -> None:
    for command in start_commands(cluster):
        assert re.search(rf"export [^;]*\b{setting}\b", command.partition("ray start")[0])


def test_every_node_gets_the_token_and_no_port_is_opened(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["provider"]["security_group"] == {"GroupName": "batch-nst"}


def test_there_is_no_secret_in_it(raw: dict[str, Any]) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"(AKIA|ASIA)[0-9A-Z]{16}|PRIVATE KEY|[A-Za-z0-9]{32,}", text)
    assert not re.search(r"(?i)(password|secret\w*|access_key\w*|RAY_AUTH_TOKEN) *[:=] *\S", text)
    assert "aws_credentials" not in raw["provider"]


# --- the project is there


def test_every_node_installs_the_project_and_one_ray(cluster: dict[str, Any]) -> None:
    paths = [cluster["head_setup_commands"], cluster["worker_setup_commands"]]
    types = cluster["available_node_types"].values()
    paths += [node["worker_setup_commands"] for node in types if "worker_setup_commands" in node]
    for commands in paths:
        install = next(command for command in commands if "pip install" in command)
        assert install.endswith('"$HOME/batch_nst"')
        assert re.search(r"ray\[data,train,default\]==\d+\.\d+\.\d+'", install)
    assert "boto3" in next(command for command in paths[0] if "pip install" in command)


def test_what_is_mounted_is_all_that_the_install_needs(cluster: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    mounts = {
        remote.removeprefix("~/batch_nst/"): local
        for remote, local in cluster["file_mounts"].items()
        if remote.startswith("~/batch_nst/")
    }
    for remote, local in mounts.items():
        assert remote == local
        assert (ROOT / local).exists()
    for needed in ("pyproject.toml", "batch_nst", project["readme"], *project["license-files"]):
        assert needed.split("/")[0] in mounts
