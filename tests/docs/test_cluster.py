"""The pages of a cluster and their manifests agree with the commands, each other and `cluster.yaml`."""

import copy
import gzip
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from batch_nst import __version__
from batch_nst.cli import parse
from batch_nst.data.storage.lease import CLOCK_SKEW
from batch_nst.pipelines.submit import STOP_SECONDS
from tests.support.places import ROOT

PAGE = "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("cluster", "doctor", "every_night"))
MANIFESTS = ROOT / "docs" / "kubernetes"
IMAGE = f"registry.example.com/batch-nst:{__version__}"


CRDS = Path(__file__).parent / "kuberay"
NO_RIGHTS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """The schema of `rayjobs` or `raycronjobs`, in which a field that it does not name is an error."""
    with gzip.open(CRDS / f"ray.io_{kind}.yaml.gz") as file:
        (version,) = (
            version
            for version in yaml.load(file, yaml.CSafeLoader)["spec"]["versions"]
            if version["name"] == "v1"
        )
    return strict(version["schema"]["openAPIV3Schema"], top=True)


def strict(schema: Any, top: bool = False) -> Any:
    """As the API server reads it with strict validation. `metadata` is Kubernetes' own, and free here."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if top:
        found["properties"]["metadata"] = {"type": "object"}
    return found


def check(kind: str, document: dict[str, Any]) -> None:
    jsonschema.Draft4Validator(schema_of(kind)).validate(document)


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


def test_every_way_to_submit_is_shown_and_understood() -> None:
    assert len(commands()) == 5
    for command in commands():
        options = parse(shlex.split(command.partition(">>")[0])[1:])
        assert (options.command, options.address) == ("submit", "http://127.0.0.1:8265")


def test_numbers_are_those_of_the_code() -> None:
    assert f"gives the job {STOP_SECONDS} s to commit" in PAGE
    assert f"{CLOCK_SKEW:g} s may lie between" in PAGE


def test_every_check_of_doctor_is_in_the_table() -> None:
    source = (ROOT / "batch_nst" / "pipelines" / "doctor.py").read_text()
    checks = re.findall(r'_check\(\s*"(\w+)"', source)
    assert len(checks) == 10
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
            assert {"cpu", "memory", "ephemeral-storage"} <= set(amounts)
    gpu = pods(cluster)["gpu"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert IMAGE in PAGE
    assert IMAGE in container


@pytest.mark.parametrize(("kind", "name"), [("rayjobs", "rayjob.yaml"), ("raycronjobs", "raycronjob.yaml")])
def test_kuberay_accepts_the_manifests_and_no_misspelt_one(kind: str, name: str) -> None:
    (document,) = read(name)
    check(kind, document)
    job = ["spec", "jobTemplate"] if kind == "raycronjobs" else ["spec"]
    pod = [*job, "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec"]
    for path, word in (
        (["spec"], "suspendd"),
        (job, "ttlSecondsAfterFinish"),
        ([*job, "rayClusterSpec", "autoscalerOptions"], "idleTimeout"),
        (pod, "toleration"),
        ([*pod, "containers", 0, "resources"], "limit"),
    ):
        wrong = place = copy.deepcopy(document)
        for step in path:
            place = place[step]
        place[word] = {}
        with pytest.raises(jsonschema.ValidationError, match=f"'{word}' was unexpected"):
            check(kind, wrong)


def test_nobody_comes_in_and_nobody_is_root() -> None:
    """What the Pod Security Standard "restricted" asks for, of every container."""
    (job,) = read("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["autoscalerOptions"]["securityContext"] == NO_RIGHTS
    (user,) = re.findall(r"^USER (\d+)$", (MANIFESTS / "Containerfile").read_text(), re.MULTILINE)
    submitter = job["spec"]["submitterPodTemplate"]["spec"]
    for pod in (submitter, *pods(cluster).values()):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [container["securityContext"] for container in pod["containers"]] == [NO_RIGHTS]
        assert pod["restartPolicy"] == "Never"  # as the autoscaler's version 2 asks, and a submitter
    for path in MANIFESTS.iterdir():
        assert not re.search(
            r"kind: (Secret|Ingress)|LoadBalancer|NodePort|hostPath|privileged", path.read_text()
        )


def test_accounts_are_those_of_the_pods_and_metrics_are_found_there() -> None:
    accounts = {account["metadata"]["name"] for account in read("accounts.yaml")}
    (job,), (monitor,) = read("rayjob.yaml"), read("podmonitor.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    submitter = job["spec"]["submitterPodTemplate"]["spec"]
    assert {pod["serviceAccountName"] for pod in (submitter, *pods(cluster).values())} == accounts
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"]
        (container,) = group["template"]["spec"]["containers"]
        # Port 8080 is that of KubeRay's default for `ray start --metrics-export-port`.
        assert container["ports"] == [{"name": endpoint["port"], "containerPort": 8080}]
    for group in cluster["workerGroupSpecs"]:  # only the head asks Kubernetes for nodes
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_what_was_not_run_says_so() -> None:
    for path in (*MANIFESTS.iterdir(), ROOT / "cluster.yaml"):
        assert "Written, not run here" in re.sub(r"\n# ", " ", path.read_text()), path.name
    for variant in ("Images", "Google's cloud", "Machines of your own"):
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
