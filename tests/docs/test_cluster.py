"""docs/cluster.md and its manifests agree with the commands, with each other and with `cluster.yaml`."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_nst import __version__
from batch_nst.cli import parse
from batch_nst.data.storage.lease import CLOCK_SKEW
from batch_nst.pipelines.submit import STOP_SECONDS
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text()
MANIFESTS = ROOT / "docs" / "kubernetes"
IMAGE = f"registry.example.com/batch-nst:{__version__}"


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pod specs of a RayCluster, by group."""
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {
        name: group["template"]["spec"]
        for name, group in {"head": cluster["headGroupSpec"], **groups}.items()
    }


def commands() -> list[str]:
    lines = [
        line for block in re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    return [line[line.index("batch-nst ") :] for line in lines if re.match(r"[^|]*batch-nst submit", line)]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    words = shlex.split(command.partition(">>")[0])
    options = parse(words[1:])
    assert (options.command, options.address) == ("submit", "http://127.0.0.1:8265")


def test_all_ways_to_submit_are_shown() -> None:
    assert len(commands()) == 5


def test_numbers_are_those_of_the_code() -> None:
    assert f"gives the job {STOP_SECONDS} s to commit" in PAGE
    assert f"{CLOCK_SKEW:g} s may lie between" in PAGE


def test_every_check_of_doctor_is_in_the_table() -> None:
    source = (ROOT / "batch_nst" / "pipelines" / "doctor.py").read_text()
    checks = re.findall(r'_check\(\s*"(\w+)"', source)
    assert len(checks) == 11
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == checks


def test_every_file_is_named_and_there() -> None:
    linked = set(re.findall(r"\(kubernetes/([\w.]+)\)", PAGE))
    assert linked == {path.name for path in MANIFESTS.iterdir()}


def test_a_night_is_a_command_of_the_project() -> None:
    (job,) = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "batch-nst"
    options = parse(words[1:])
    assert options.command == "nightly"
    cluster = job["spec"]["rayClusterSpec"]
    (mount,) = pods(cluster)["head"]["containers"][0]["volumeMounts"]
    assert Path(options.recipe) == Path(mount["mountPath"]) / "recipe.yaml"
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def test_the_cluster_is_that_of_cluster_yaml() -> None:
    (job,) = read("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    text = (ROOT / "cluster.yaml").read_text()
    assert f"ray[data,train,default]=={cluster['rayVersion']}'" in text
    container = (MANIFESTS / "Containerfile").read_text()
    assert f"FROM rayproject/ray:{cluster['rayVersion']}-" in container
    assert f"ray[data,train,default]=={cluster['rayVersion']}'" in container
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    for pod in pods(cluster).values():
        (ray,) = pod["containers"]
        assert ray["image"] == IMAGE
        for variable in ray["env"]:
            assert f"{variable['name']}={variable['value']}" in text
        for amounts in ray["resources"].values():
            assert set(amounts) <= {"cpu", "memory", "nvidia.com/gpu"}
    assert pods(cluster)["gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert IMAGE in PAGE
    assert IMAGE in container


def test_nobody_comes_in_and_nobody_is_root() -> None:
    (job,) = read("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    (user,) = re.findall(r"^USER (\d+)$", (MANIFESTS / "Containerfile").read_text(), re.MULTILINE)
    for pod in pods(cluster).values():
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": int(user)}
    for path in MANIFESTS.iterdir():
        assert not re.search(
            r"kind: (Secret|Ingress)|LoadBalancer|NodePort|hostPath|privileged", path.read_text()
        )


def test_what_was_not_run_says_so() -> None:
    for path in (*MANIFESTS.iterdir(), ROOT / "cluster.yaml"):
        assert "Written, not run here" in re.sub(r"\n# ", " ", path.read_text()), path.name
    for variant in ("Google's cloud", "Machines of your own"):
        assert f"# {variant}. Written, not run here." in (ROOT / "cluster.yaml").read_text()


def test_the_schedules_run_the_same_night() -> None:
    (job,), (nights,) = read("rayjob.yaml"), read("raycronjob.yaml")
    assert (nights["apiVersion"], nights["kind"]) == ("ray.io/v1", "RayCronJob")
    assert nights["spec"]["jobTemplate"] == job["spec"]
    *rights, cron = read("cronjob.yaml")
    assert cron["kind"] == "CronJob"
    assert cron["spec"]["schedule"] == nights["spec"]["schedule"]
    assert cron["spec"]["schedule"] in PAGE.replace("30 1 * * *  ", "30 1 * * *")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (create,) = pod["containers"]
    assert create["command"][:2] == ["kubectl", "create"]
    assert create["command"][-1] == f"{create['volumeMounts'][0]['mountPath']}/rayjob.yaml"
    assert "generateName" in job["metadata"]  # `create` each night
    account, role, binding = rights
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
