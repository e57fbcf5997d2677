"""Laws of `batch_nst.data.dataset.plan`: what is found, done, to do, held out, and refused."""

import tarfile
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.sources.photos import key_hash, list_photos
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands
from batch_nst.recipe import Recipe

NAMES = ("a.jpg", "b.jpg", "c.jpg", "deep/d.png", "e.webp")
COUNTS = {"photos": 5, "found": 5, "done": 0, "rejected": 0, "to_do": 5, "unpaired": 0, "gone": 0}
"""Of all photos before any is made."""


class Project:
    """A painting, a folder of photos that nobody opens, an output, and a recipe for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(str(root / "out"))
        Image.new("RGB", (20, 16), "navy").save(root / "painting.png")
        self.add(*NAMES)

    def add(self, *names: str) -> None:
        for name in names:
            path = self.root / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def recipe(self, **sections: dict[str, Any]) -> Recipe:
        document = {
            "output": self.store.uri,
            "style": {"image": str(self.root / "painting.png"), "size": 16},
            "generate": {
                "input": str(self.root / "photos"),
                "unit_images": 2,
                **sections.pop("generate", {}),
            },
            **sections,
        }
        return Recipe.model_validate(document)

    def survey(self, retry: bool = False, **sections: dict[str, Any]) -> Plan:
        return survey(self.recipe(**sections), self.store, retry)

    def write_down(self, **sections: dict[str, Any]) -> Plan:
        return self.survey(**sections).write_down(self.store)

    def pending(self, plan: Plan) -> pa.Table:
        return pa.concat_tables([plan_files.PLAN_SCHEMA.empty_table(), *plan.pending(self.store)])

    def keys(self, plan: Plan) -> list[str]:
        return self.pending(plan)["key"].to_pylist()

    def make(self, plan: Plan, how_many: int, status: str = "ok") -> None:
        """Commit the first units of a plan that are not, without pictures."""
        rows = self.pending(plan).to_pylist()
        for unit in list(dict.fromkeys(row["unit"] for row in rows))[:how_many]:
            made = [
                {"id": row["id"], "uri": row["source"], "split": plan.split_of(row["key"]), "status": status}
                for row in rows
                if row["unit"] == unit
            ]
            units.commit_unit(self.store, unit, made, digest=unit)

    def files(self) -> dict[Path, tuple[int, bytes]]:
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in self.root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_every_crop_that_is_found_is_to_do_at_first(project: Project) -> None:
    assert asdict(project.survey().counts()) == COUNTS
    assert asdict(project.survey(generate={"crops": 3}).counts()) == COUNTS | {"found": 15, "to_do": 15}


def test_a_survey_writes_nothing(project: Project) -> None:
    before = project.files()
    project.survey()
    assert project.files() == before
    assert not (project.root / "out").exists()
    project.make(project.write_down(), 1)
    project.add("f.jpg")
    before = project.files()
    project.survey(retry=True)
    assert project.files() == before


def test_what_is_committed_is_done_and_the_rest_to_do(project: Project) -> None:
    project.make(project.write_down(), 2)
    plan = project.survey()
    assert asdict(plan.counts()) == COUNTS | {"done": 4, "to_do": 1}
    assert project.keys(plan) == ["e.webp"]


def test_writing_down_changes_no_count_and_is_found_again(project: Project) -> None:
    planned = project.survey()
    before = project.pending(planned)
    written = planned.write_down(project.store)
    assert (planned.is_written_down, written.is_written_down) == (False, True)
    assert written.counts() == planned.counts()
    assert project.pending(written).equals(before)
    assert project.pending(project.survey()).equals(before)
    project.write_down()  # of the same, which adds no segment
    assert project.store.list("dataset/plan") == ["dataset/plan/000001.parquet"]


def test_a_new_photo_is_planned_into_units_of_its_own(project: Project) -> None:
    before = project.write_down()
    project.make(before, 3)
    project.add("b2.jpg")
    plan = project.survey()
    assert asdict(plan.counts()) == COUNTS | {"photos": 6, "found": 6, "done": 5, "to_do": 1}
    assert project.keys(plan) == ["b2.jpg"]
    after = plan.write_down(project.store)
    assert after.written.rows.slice(0, 5).to_pylist() == before.written.rows.to_pylist()
    old, new = (set(rows["unit"].to_pylist()) for rows in (before.written.rows, project.pending(after)))
    assert not old & new


def test_a_photo_that_was_removed_is_gone(project: Project) -> None:
    project.make(project.write_down(), 3)
    (project.root / "photos" / "a.jpg").unlink()
    counts = COUNTS | {"photos": 4, "found": 4, "done": 4, "to_do": 0, "gone": 1}
    assert asdict(project.survey().counts()) == counts


def test_units_of_which_no_photo_is_left_are_not_made_until_one_is_back(project: Project) -> None:
    project.write_down()
    photos, elsewhere = project.root / "photos", project.root / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.jpg", "b.jpg"):  # all of a unit
        (photos / name).rename(elsewhere / name)
    plan = project.survey()
    assert asdict(plan.counts()) == COUNTS | {"photos": 3, "found": 3, "to_do": 3, "gone": 2}
    assert project.keys(plan) == ["c.jpg", "deep/d.png", "e.webp"]
    (elsewhere / "a.jpg").rename(photos / "a.jpg")  # with the time of its last change, so it is the same
    plan = project.survey()
    assert project.keys(plan) == [*NAMES]  # a unit is made whole or not at all
    assert asdict(plan.counts()) == COUNTS | {"photos": 4, "found": 4, "gone": 1}


def test_a_photo_with_new_content_is_another_photo(project: Project) -> None:
    project.make(project.write_down(), 3)
    (project.root / "photos" / "a.jpg").write_text("painted over")
    plan = project.survey()
    assert asdict(plan.counts()) == COUNTS | {"done": 4, "to_do": 1, "gone": 1}
    assert project.keys(plan) == ["a.jpg"]


def test_more_crops_later_cost_the_new_ones_only(project: Project) -> None:
    project.make(project.write_down(), 3)
    plan = project.survey(generate={"crops": 3})
    assert asdict(plan.counts()) == COUNTS | {"found": 15, "done": 5, "to_do": 10}
    assert sorted(set(project.pending(plan)["crop"].to_pylist())) == [1, 2]


def test_fewer_crops_later_leave_the_others_out(project: Project) -> None:
    project.make(project.write_down(generate={"crops": 2}), 5)
    counts = COUNTS | {"done": 5, "to_do": 0, "gone": 5}
    assert asdict(project.survey(generate={"crops": 1}).counts()) == counts


def test_what_is_planned_keeps_its_unit_when_units_change_their_size(project: Project) -> None:
    before = project.write_down()
    after = project.survey(generate={"unit_images": 5})
    assert project.pending(after).equals(project.pending(before))


def test_only_failed_images_are_retried_and_only_when_asked(project: Project) -> None:
    plan = project.write_down()
    project.make(plan, 1, "failed")
    project.make(project.survey(), 1, "rejected")
    project.make(project.survey(), 1, "ok")
    assert project.survey().counts().to_do == 0
    again = project.survey(retry=True)
    assert [(row["key"], row["attempt"]) for row in again.again.to_pylist()] == [("a.jpg", 1), ("b.jpg", 1)]
    written = again.write_down(project.store)
    project.make(written, 1, "failed")
    third = project.survey(retry=True)
    assert [(row["key"], row["attempt"]) for row in third.again.to_pylist()] == [("a.jpg", 2), ("b.jpg", 2)]
    project.make(third.write_down(project.store), 1, "ok")
    assert project.survey(retry=True).to_do == 0


def test_a_failed_photo_that_is_gone_is_not_retried(project: Project) -> None:
    project.make(project.write_down(), 1, "failed")
    (project.root / "photos" / "a.jpg").unlink()
    assert project.keys(project.survey(retry=True)) == ["c.jpg", "deep/d.png", "e.webp", "b.jpg"]


NONE = {"holdout": 0.0}


def held_out(project: Project, plan: Plan) -> list[str]:
    photos = list_photos(str(project.root / "photos"))
    return [photo.key for photo in photos if plan.split_of(photo.key) == "held_out"]


def test_the_share_held_out_is_of_the_lowest_hashes(project: Project) -> None:
    bound = sorted(map(key_hash, NAMES))[2]
    expected = [name for name in sorted(NAMES) if key_hash(name) < bound]
    assert len(expected) == 2
    assert held_out(project, project.survey(evaluate={"holdout": bound})) == expected


def test_named_photos_are_held_out_whatever_their_hash(project: Project) -> None:
    named = NONE | {"holdout_photos": ["deep/d.png", "b.jpg"]}
    plan = project.survey(evaluate=named)
    assert held_out(project, plan) == ["b.jpg", "deep/d.png"]
    assert plan.settings["holdout"]["at_least"] == []


def test_a_held_out_name_that_fits_no_photo_is_refused_and_later_only_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"holdout": 0.0, "holdout_photos": ["d.png", "b.jpg"]}
    told = r"^evaluate\.holdout_photos: given d\.png; no photo .* a key; allowed: keys, such as a\.jpg"
    with pytest.raises(RecipeError, match=told):
        project.survey(evaluate=named)
    named["holdout_photos"] = ["deep/d.png", "b.jpg"]
    project.write_down(evaluate=named)
    (project.root / "photos" / "b.jpg").unlink()
    capsys.readouterr()
    project.survey(evaluate=named)
    assert "given b.jpg; no photo of the input has such a key now\n" in capsys.readouterr().err


def test_what_a_listing_skips_is_counted_and_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add("labels.csv", "x.jp2", "y.jp2", ".z.jpg")
    figures = as_json(commands.plan(project.recipe(train={"batch_size": 1})))
    assert figures["passed_over"] == {"hidden": 1, ".jp2": 2, ".csv": 1}
    assert "passed over: 2 .jp2, 1 .csv, 1 hidden\n" in capsys.readouterr().err


def test_a_pattern_is_a_key_of_the_recipe(project: Project) -> None:
    project.add("0a1b2c")
    assert project.keys(project.survey(generate={"pattern": "[0-9]*"})) == ["0a1b2c"]
    with tarfile.open(project.root / "a.tar", "w") as tar:
        for name in ("b.jpg", "c.jfif", "d"):
            tar.addfile(tarfile.TarInfo(name))
    tar_of = {"input": str(project.root / "a.tar")}
    assert project.keys(project.write_down(generate=tar_of)) == ["a.tar/b.jpg"]
    plan = project.survey(generate=tar_of | {"pattern": "**"})
    assert project.keys(plan) == ["a.tar/b.jpg", "a.tar/c.jfif", "a.tar/d"]
    with pytest.raises(ValueError, match="a glob over paths below the input"):
        project.recipe(generate={"pattern": "/"})


def test_at_least_one_photo_is_held_out_the_one_of_lowest_hash(project: Project) -> None:
    assert held_out(project, project.survey(evaluate=NONE)) == [min(NAMES, key=key_hash)]


def test_the_photo_that_had_to_be_held_out_stays_so_when_lower_ones_come(project: Project) -> None:
    forced = min(NAMES, key=key_hash)
    project.write_down(evaluate=NONE)
    lower = next(name for name in (f"{i}.jpg" for i in count()) if key_hash(name) < key_hash(forced))
    project.add(lower)
    assert held_out(project, project.survey(evaluate=NONE)) == [forced]
    assert held_out(project, project.write_down(evaluate=NONE)) == [forced]


@pytest.mark.parametrize(
    ("sections", "key", "old", "new"),
    [
        ({"generate": {"iterations": 301}}, "generate.iterations", "300", "301"),
        ({"generate": {"image_size": 128}}, "generate.image_size", "256", "128"),
        ({"generate": {"encoding": "png"}}, "generate.encoding", "'webp'", "'png'"),
        ({"generate": {"optimizer": "adam"}}, "generate.optimizer", "'lbfgs'", "'adam'"),
        ({"loss": {"style_weight": 7.0}}, "loss.style_weight", "100.0", "7.0"),
        ({"loss": {"content_layers": {"relu2_2": 1.0}}}, "loss.content_layers.relu3_3", "1.0", "None"),
        ({"evaluate": {"holdout": 0.5}}, "holdout.fraction", "0.05", "0.5"),
        ({"evaluate": {"holdout_photos": ["a.jpg"]}}, "holdout.photos", "[]", "['a.jpg']"),
    ],
)
def test_other_settings_than_the_dataset_s_are_refused(
    project: Project, sections: dict[str, dict[str, Any]], key: str, old: str, new: str
) -> None:
    project.write_down()
    with pytest.raises(RecipeError) as refused:
        project.survey(**sections)
    line = str(refused.value)
    assert f"{key}: the dataset in {project.store.uri} was started with {old}, the recipe says {new};" in line
    assert line.endswith("; choose another output")
    assert "\n" not in line


def test_another_painting_under_the_same_name_is_refused(project: Project) -> None:
    project.write_down()
    Image.new("RGB", (20, 16), "black").save(project.root / "painting.png")
    with pytest.raises(RecipeError, match=r"^style\.sha256: "):
        project.survey()


@pytest.mark.parametrize(
    "sections",
    [
        {"generate": {"unit_images": 3}},
        {"generate": {"max_rejected": 1.0}},
        {"generate": {"actors": [2, 2]}},
        {"train": {"steps": 1}},
        {"publish": {"margin": 0.5}},
    ],
)
def test_what_decides_no_pixel_may_change(project: Project, sections: dict[str, dict[str, Any]]) -> None:
    counts = project.write_down().counts()
    assert project.survey(**sections).counts() == counts


def test_later_steps_ask_for_a_dataset_of_the_same_settings(project: Project) -> None:
    with pytest.raises(IncompleteError, match="no dataset here; run `batch-nst generate` first"):
        check_recipe(project.recipe(), project.store)
    settings = project.write_down(evaluate=NONE).settings
    assert check_recipe(project.recipe(evaluate=NONE), project.store) == settings
    with pytest.raises(RecipeError, match=r"^generate\.iterations: "):
        check_recipe(project.recipe(evaluate=NONE, generate={"iterations": 1}), project.store)
