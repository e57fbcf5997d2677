"""Laws of the layout: three wings, each knowing one heavy dependency, and imports only downwards."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import batch_nst
from tests.conftest import LONGEST
from tests.support.places import ROOT

PACKAGE = ROOT / "batch_nst"
FILES = sorted(PACKAGE.rglob("*.py"))
GROUND = {
    "batch_nst",
    "batch_nst.arguments",
    "batch_nst.console",
    "batch_nst.contradictions",
    "batch_nst.credentials",
    "batch_nst.errors",
    "batch_nst.figures",
    "batch_nst.globs",
    "batch_nst.recipe",
    "batch_nst.recipe_file",
    "batch_nst.uris",
    "batch_nst.streams",
    "batch_nst.suggestions",
    "batch_nst.summary",
}
KNOW_RAY = {
    f"batch_nst.pipelines.{name}"
    for name in (
        "apply.actors",
        "cluster.connect",
        "cluster.crash_counter",
        "cluster.metrics",
        "cluster.node_types",
        "cluster.nodes",
        "cluster.session",
        "cluster.rows",
        "cluster.stop_flag",
        "cost.calibrate",
        "evaluate.actors",
        "generate.actors",
        "generate.warm_start",
        "submit",
        "train.batches",
        "train.ray_train",
    )
}
ROOMS = {
    "batch_nst.data": ["storage", "images", "sources", "dataset", "models"],
    "batch_nst.pipelines": [
        "cluster",
        "generate",
        "train",
        "evaluate",
        "apply",
        "cost",
        "reports",
        "benchmark",
    ],
}
"""Folders of files; those of `data` in their order: each imports only those before it."""
COMMAND = {"batch_nst.cli", "batch_nst.trials", "batch_nst.upkeep"}
MOST_FILES, MOST_LINES = 18, 450


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names, modules of this package in full: `from batch_nst.data import units` is data.units."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= below or {str(node.module)}
    return names


@cache
def imports(module: str) -> set[str]:
    """Everything that a module imports, inside functions and for types as well."""
    return imported(ast.walk(ast.parse(MODULES[module].read_text())))


@cache
def eager_imports(module: str) -> set[str]:
    """What importing a module imports at once."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            yield node
            for name in ("body", "orelse", "finalbody"):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from walk(getattr(node, name, []))

    return imported(walk(ast.parse(MODULES[module].read_text()).body))


def wing(module: str) -> str:
    return "ground" if module in GROUND else "cli" if module in COMMAND else module.split(".")[1]


def libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)} - {"batch_nst"}


def wings_below(module: str) -> set[str]:
    return {wing(name) for name in imports(module) if name.split(".")[0] == "batch_nst"}


def members(name: str) -> list[str]:
    return [module for module in MODULES if wing(module) == name]


def test_every_module_is_in_the_ground_a_wing_or_the_command() -> None:
    assert {wing(module) for module in MODULES} == {
        *("ground", "data", "engine", "pipelines"),
        *("cli", "__main__"),
    }


@pytest.mark.parametrize(
    ("name", "may_import"),
    [
        ("data", {"ground", "data"}),
        ("engine", {"ground", "engine"}),
        ("pipelines", {"ground", "data", "engine", "pipelines"}),
        ("cli", {"ground", "pipelines", "cli"}),
        ("__main__", {"cli"}),
    ],
)
def test_imports_go_downwards(name: str, may_import: set[str]) -> None:
    upwards = {module: wings_below(module) - may_import for module in members(name)}
    assert {module: names for module, names in upwards.items() if names} == {}


def test_the_ground_imports_the_ground_and_only_the_package_itself_hands_out_others_on_use() -> None:
    upwards = {module: wings_below(module) - {"ground"} for module in GROUND}
    assert {module: names for module, names in upwards.items() if names} == {
        "batch_nst": {"data", "pipelines"}
    }
    assert {name for name in eager_imports("batch_nst") if name.startswith("batch_nst")} == set()


@pytest.mark.parametrize(
    ("name", "strangers"),
    [
        ("ground", {"torch", "ray", "pyarrow", "PIL", "numpy", "fsspec"}),
        ("cli", {"torch", "ray", "pyarrow", "PIL", "numpy", "fsspec"}),
        ("data", {"torch", "ray"}),
        ("engine", {"ray", "pyarrow", "fsspec", "s3fs", "PIL"}),
    ],
)
def test_a_wing_knows_its_own_heavy_dependency_only(name: str, strangers: set[str]) -> None:
    known = {module: libraries(module) & strangers for module in members(name)}
    assert {module: names for module, names in known.items() if names} == {}


def test_ray_is_known_to_a_few_pipeline_files_and_at_their_top() -> None:
    assert {module for module in MODULES if "ray" in libraries(module)} == KNOW_RAY
    for module in KNOW_RAY:
        inside = imports(module) - eager_imports(module)
        assert {name for name in inside if name.split(".")[0] == "ray"} == set()


def test_who_does_not_know_ray_imports_who_does_only_when_there_is_work() -> None:
    eager = {module: eager_imports(module) & KNOW_RAY for module in MODULES.keys() - KNOW_RAY}
    assert {module: names for module, names in eager.items() if names} == {}


def test_no_import_cycles() -> None:
    graph = {module: eager_imports(module) & MODULES.keys() for module in MODULES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == MODULES.keys()


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in PACKAGE.rglob("*") if path.stem in drawers] == []


def run(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints last."""
    words = [sys.executable, "-W", "error", "-c", f"import sys, batch_nst\n{code}", *arguments]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()[-1]


DEMO = str(ROOT / "jobs" / "recipes" / "demo.yaml")
LIBRARIES = {"torch", "ray", "pyarrow", "PIL", "numpy", "fsspec"}


@pytest.mark.parametrize(
    ("code", "strangers"),
    [
        ("dir(batch_nst)", {*LIBRARIES, "pydantic", "yaml", "batch_nst.data", "batch_nst.pipelines"}),
        ("from batch_nst.recipe_file import load_recipe; load_recipe(sys.argv[1])", LIBRARIES),
        ("batch_nst.Loss, batch_nst.Pair, batch_nst.Recipe, batch_nst.read_pairs", {"torch", "ray"}),
    ],
    ids=["package", "recipe", "pairs"],
)
def test_the_public_names_import_nothing_heavier_than_they_need(code: str, strangers: set[str]) -> None:
    assert strangers & set(run(f"{code}; print(*sys.modules)", DEMO).split()) == set()


def test_every_public_name_is_listed_and_is_what_it_says() -> None:
    assert [name for name in dir(batch_nst) if not name.startswith("_")] == batch_nst.__all__
    assert [getattr(batch_nst, name).__name__ for name in batch_nst.__all__] == batch_nst.__all__


def test_who_reads_decodes_counts_and_writes_imports_no_torch() -> None:
    """Two seconds and 300 MB of each process of a worker node; Ray's tasks know no Ray themselves."""
    code = """
from batch_nst.pipelines.apply import tasks
from batch_nst.pipelines.generate import decode, write
without_ray = "ray" not in sys.modules
from batch_nst.data.dataset import sampler
from batch_nst.pipelines.cluster import crash_counter, stop_flag
from batch_nst.pipelines.generate import actors
from batch_nst.pipelines.train import progress
print(without_ray, sorted({"ray", "torch"} & sys.modules.keys()))
"""
    assert run(code) == "True ['ray']"


def test_planning_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = """
from batch_nst.cli import main
try:
    main(["plan", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, sorted({"torch", "ray", "pyarrow"} & sys.modules.keys()), file=sys.__stdout__)
"""
    assert run(code, DEMO, f"output={tmp_path}/out") == "0 ['pyarrow']"


WITHOUT = """
import importlib
modules = sys.argv[1].split(",")
sys.modules.update(dict.fromkeys(sys.argv[2:]))
for name in modules:
    importlib.import_module(name)
print(len(modules))
"""
"""Imports modules on a machine where some libraries cannot be imported."""


@pytest.mark.parametrize(
    ("name", "missing"), [("engine", ("ray", "pyarrow", "fsspec", "PIL")), ("data", ("ray", "torch"))]
)
def test_a_wing_works_on_a_machine_without_the_dependencies_of_the_others(
    name: str, missing: tuple[str, ...]
) -> None:
    modules = members(name)
    assert run(WITHOUT, ",".join(modules), *missing) == str(len(modules))


def room(module: str) -> str:
    """The folder that a module lies in, or "" where that is the wing itself."""
    parts = [*module.split("."), ""]
    return parts[2] if (PACKAGE / parts[1] / parts[2]).is_dir() else ""


def rooms_below(module: str) -> set[str]:
    """The rooms of its own wing that a module imports."""
    own = ".".join(module.split(".")[:2]) + "."
    return {room(name) for name in imports(module) if name.startswith(own)} - {room(module)}


@pytest.mark.parametrize("wing_name", ROOMS)
def test_the_rooms_are_these(wing_name: str) -> None:
    folder = ROOT / wing_name.replace(".", "/")
    found = {path.name for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert found == set(ROOMS[wing_name])


def test_a_room_of_data_imports_only_those_before_it() -> None:
    order = ROOMS["batch_nst.data"]
    upwards = {
        module: names
        for module in members("data")
        if room(module) and (names := rooms_below(module) - set(order[: order.index(room(module))]) - {""})
    }
    assert upwards == {}


def test_no_other_room_imports_the_benchmark() -> None:
    found = {
        module
        for module in members("pipelines")
        if room(module) != "benchmark" and "benchmark" in rooms_below(module)
    }
    assert found == set()


def test_no_room_and_no_file_is_too_large() -> None:
    folders = {path.parent for path in FILES}
    crowded = [folder for folder in folders if len(list(folder.glob("*.py"))) - 1 > MOST_FILES]
    assert crowded == []
    long = {str(path.relative_to(ROOT)) for path in FILES if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set()


def test_files_of_tests_that_are_run_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


MOST_FUNCTION_LINES = 60


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file with its number of lines, docstring apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            words = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if words else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_no_function_is_long() -> None:
    long = {
        f"{module_of(path)}.{name}": lines
        for path in FILES
        for name, lines in functions(path)
        if lines > MOST_FUNCTION_LINES
    }
    assert long == {}


UNTYPED = re.compile(r"(dict|Mapping|MutableMapping)\[str, (Any|object)\]|Figures|_?Row|JsonObject")
MOST_UNTYPED = 20


def test_untyped_mappings_are_left_at_the_edges_alone() -> None:
    """A JSON document that was read, pydantic, and Ray's own rows; all else is a record."""
    found = [
        f"{module_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript | ast.Name) and UNTYPED.fullmatch(ast.unparse(node))
    ]
    assert len(found) <= MOST_UNTYPED, "\n".join(found)


def test_the_tests_mirror_the_rooms() -> None:
    own = {"support", "docs", "benchmarks", "chaos", "compatibility", "properties"}
    folders = {
        path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")
    }
    rooms = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES}
    assert folders - own <= rooms


def test_the_tree_in_the_design_is_the_tree_on_disk() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    tree = page[page.index("    batch_nst/") :].split("\n\n")[0]
    named: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip()) - 4) // 2
        name, _, about = line.strip().partition(" ")
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name.removesuffix("/"))
        else:
            named.add("/".join([*folders, name]))
            assert about.strip(), f"{name}: no word about it"
    on_disk = {path.relative_to(ROOT).as_posix() for path in FILES if path.read_text()}
    assert named == on_disk
