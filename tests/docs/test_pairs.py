"""docs/pairs.md: its columns are those of a unit, and its programs load the pairs of an output."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from batch_nst import read_pairs
from batch_nst.data.dataset.units import UNIT_SCHEMA
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "pairs.md").read_text()
MADE = ROOT / "tests" / "compatibility" / "made_by_580efb4" / "output"
PROGRAMS = {
    name: next(each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if word in each)
    for name, word in (
        ("python", "pair.id"),
        ("torch", "DataLoader"),
        ("ray", "ray.data"),
        ("hub", "datasets"),
    )
}
SHOWN = {
    "python": "",
    "torch": "print(photos.shape, photos.dtype, float(optimised.max()) <= 1)",
    "hub": "print(len(pairs), pairs[0]['content'].size)",
    "ray": "print(*(row['stylized'].shape for row in pairs.take_all()))",
}


def test_the_columns_are_those_of_a_unit() -> None:
    table = re.findall(r"^\| (`.*?`) \| (\w+) \|", PAGE, re.MULTILINE)
    told = {name: kind for names, kind in table for name in re.findall(r"`(\w+)`", names)}
    kinds = {
        field.name: "image" if pa.types.is_struct(field.type) else str(field.type) for field in UNIT_SCHEMA
    }
    assert told == kinds


def loaded(program: str, folder: Path) -> str:
    """What a program of the page prints, run beside an output `out/auvers`."""
    shutil.copytree(MADE, folder / "out" / "auvers")
    code = f"{PROGRAMS[program]}\n{SHOWN[program]}"
    environment = os.environ | {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return ran.stdout


def test_read_pairs_gives_all_pairs_of_the_snapshot(tmp_path: Path) -> None:
    shown = [line.split()[:2] for line in loaded("python", tmp_path).splitlines()]
    assert shown == [[pair.id, pair.split] for pair in read_pairs(MADE)]


def test_torch_gets_batches_of_0_to_1(tmp_path: Path) -> None:
    assert loaded("torch", tmp_path) == "torch.Size([4, 3, 32, 32]) torch.float32 True\n"


def test_datasets_sees_the_pairs_and_their_pictures(tmp_path: Path) -> None:
    pairs = sum(pair.split == "train" for pair in read_pairs(MADE))
    assert loaded("hub", tmp_path).splitlines()[-1] == f"{pairs} (32, 32)"


@pytest.mark.slow
def test_ray_data_sees_them_too(tmp_path: Path) -> None:
    pairs = sum(pair.split == "train" for pair in read_pairs(MADE))
    assert loaded("ray", tmp_path).splitlines()[-1] == " ".join(["(32, 32, 3)"] * pairs)
