"""Laws of the benchmark: its arithmetic by hand, its memory, and one whole run on a small scale."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from batch_nst.data.models import registry
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.baselines import run_baseline
from batch_nst.engine.fast_model.model_io import model_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import optimise
from batch_nst.engine.timing import bare_pass, spread_of
from batch_nst.engine.vgg import Vgg16
from batch_nst.errors import RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines.benchmark import engine as module
from batch_nst.pipelines.benchmark.engine import benchmark, fallen_back
from batch_nst.pipelines.benchmark.engine_records import Scale
from batch_nst.pipelines.benchmark.measure import ResultCache
from batch_nst.pipelines.benchmark.race import (
    PhotoRace,
    Speedup,
    against_pictures,
    largest_difference,
    run_engine,
    seconds_to,
    speedup_to,
    summary,
)
from batch_nst.recipe import Loss
from tests.support.places import PAINTING, SAMPLES

SLOW = [(1.0, 100.0), (2.0, 60.0), (3.0, 70.0), (4.0, 40.0)]
FAST = [(0.5, 100.0), (1.0, 50.0), (1.5, 30.0)]


def test_a_loss_is_reached_at_the_first_evaluation_that_has_it() -> None:
    assert [seconds_to(SLOW, loss) for loss in (100, 99, 60, 41, 40, 39)] == [1, 2, 2, 4, 4, None]


def test_ratios_by_hand() -> None:
    assert speedup_to(SLOW, FAST, 2, 60.0) == (2 / 1, True)
    assert speedup_to(SLOW, FAST, 4, 40.0) == (4 / 1.5, True)
    # Never reached: at most what it would be if the end of the curve had it.
    assert speedup_to(SLOW, FAST, 4, 29.0) == (4 / 1.5, False)
    assert speedup_to(SLOW, SLOW, 2, 60.0) == (1.0, True)


def test_a_summary_counts_the_photos_that_ran_so_far() -> None:
    long = [(float(i), 1000.0 - i) for i in range(1, 101)]
    sooner = [(i / 4, loss) for i, loss in long]
    never = [(i / 2, loss + 500) for i, loss in long]
    curves = [{"lbfgs": long, "engine": sooner}, {"lbfgs": long, "engine": never}, {"lbfgs": SLOW}]
    figures = summary([PhotoRace(each, {}) for each in curves], "engine")
    assert figures["50"].speedup == pytest.approx(math.sqrt(4 * (50 / 50)))
    assert (figures["50"].photos, figures["50"].not_reached) == (2, 1)
    assert figures["300"] == Speedup(speedup=None, least=None, most=None, photos=0, not_reached=0)


def test_against_a_stored_picture_its_own_clock_counts() -> None:
    race = PhotoRace({"lbfgs": SLOW, "engine": FAST}, stored={"3": 55.0})
    assert against_pictures([race], 3) == pytest.approx(3 / 1)
    assert against_pictures([race], 100) is None


def test_a_spread_is_the_middle_and_both_ends() -> None:
    assert spread_of([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_a_difference_is_that_of_stored_pictures() -> None:
    a = torch.zeros(1, 3, 2, 2)
    b = a.clone()
    b[0, 0, 0, 0], b[0, 1, 1, 1], b[0, 2, 0, 0] = 3.4, 1.4, 0.4
    assert largest_difference(a, b) == {"largest": 3.0, "beyond_1": pytest.approx(1 / 12)}


def test_a_measurement_is_taken_once_on_a_machine(tmp_path: Path) -> None:
    results = str(tmp_path / "new" / "results.jsonl")
    here = ResultCache(results, {"processor": "a"})
    assert here.measure("x", lambda: {"list": (1, 2)}) == {"list": [1, 2]}
    assert here.measure("x", lambda: pytest.fail("taken twice")) == {"list": [1, 2]}
    again = ResultCache(results, {"processor": "a"})
    assert again.measure("x", lambda: pytest.fail("forgotten")) == {"list": [1, 2]}
    assert ResultCache(results, {"processor": "b"}).measure("x", lambda: 7) == 7
    with Path(results).open("a") as file:
        file.write('{"name": "y", "mach')  # killed while it wrote
    assert ResultCache(results, {"processor": "a"}).taken == {"x": {"list": [1, 2]}}


@pytest.fixture(scope="module")
def objective() -> PerceptualLoss:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(Loss()))
    style = 255 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return PerceptualLoss.of_style(vgg, Loss(), style)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return 255 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["lbfgs", "lbfgs_wolfe", "adam"])
def test_a_baseline_starts_at_the_photo_and_goes_down(
    objective: PerceptualLoss, photos: torch.Tensor, method: str
) -> None:
    curve, stored = run_baseline(objective, photos[:1], 12, method)  # type: ignore[arg-type]
    start = objective(photos[:1], objective.content_targets(photos[:1])).total.item()
    assert len(curve) == 12
    assert curve[0][1] == pytest.approx(start, rel=1e-4)
    assert min(loss for _, loss in curve) < 0.5 * start
    assert [seconds for seconds, _ in curve] == sorted(seconds for seconds, _ in curve)
    assert stored == {}


def test_the_engines_curve_is_that_of_optimise_and_its_time_is_shared(
    objective: PerceptualLoss, photos: torch.Tensor
) -> None:
    curves = run_engine(objective, photos, 4)
    expected = optimise(objective, photos, 4).curve.T
    assert [[loss for _, loss in curve] for curve in curves] == expected.tolist()
    assert curves[0][-1][0] == curves[1][-1][0] > 0


def test_the_floor_is_the_networks_own_gradient(objective: PerceptualLoss, photos: torch.Tensor) -> None:
    bare_pass(objective.vgg, photos)()  # runs; what it computes nobody keeps


def test_a_wrong_folder_is_named_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^--images: {tmp_path}/no: there is no such"):
        benchmark(f"{tmp_path}/no", str(SAMPLES / "styles"), quick=True)
    with pytest.raises(RecipeError, match=f"^--styles: no photos in {tmp_path}"):
        benchmark(str(SAMPLES / "content"), str(tmp_path), quick=True)


def write_model(folder: Path, style: str, loss: dict[str, Any]) -> str:
    """An untrained model whose card says that it was fitted to a shipped painting; its address."""
    torch.manual_seed(0)
    painting = (SAMPLES / "styles" / style).read_bytes()
    card = {
        "version": "v",
        "architecture": {"name": "johnson", "width": 4},
        "digests": {"style": hashlib.sha256(painting).hexdigest()},
        "objective": {"loss": loss},
    }
    store = Store(str(folder))
    registry.write_part(store, "v", registry.WEIGHTS, model_bytes(TransformerNet(4)))
    registry.write_card(store, "v", card)
    registry.point(store, "v", {}, 1)
    return store.uri


def test_a_model_of_another_painting_or_loss_is_refused(tmp_path: Path) -> None:
    photos, wave = str(SAMPLES / "content"), str(PAINTING)
    other = write_model(tmp_path / "a", "van_gogh_auvers.jpg", Loss().model_dump())
    with pytest.raises(RecipeError, match=f"^--model {other}: was trained for none of the style images"):
        benchmark(photos, wave, device="cpu", quick=True, model=other)
    light = write_model(tmp_path / "b", "great_wave.jpg", Loss(style_weight=1.0).model_dump())
    with pytest.raises(RecipeError, match=f"^--model {light}: was trained with another loss"):
        benchmark(photos, wave, device="cpu", quick=True, model=light)


TINY = Scale(
    size=64,
    photos=3,
    styles=2,
    baseline=51,
    free=10,
    bounded=10,
    rounds=1,
    precise=2,
    invariance=2,
    batches=(1,),
    sizes=(32,),
    painted=(32,),
    alone=((40, 32),),
    trained=(32,),
    unit=2,
    units=2,
    unit_iterations=2,
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_run_and_its_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module, "choose_batch", lambda side, device: 2)
    monkeypatch.setattr(module, "_LEAST", {"train_fraction": 0.0, "painting_ratio": 0.0})
    results = tmp_path / "results.jsonl"
    arguments = (str(SAMPLES / "content"), str(SAMPLES / "styles"))
    first = min((SAMPLES / "styles").glob("*.jpg"))  # the run has two photos with this painting
    model = write_model(tmp_path / "model", first.name, Loss().model_dump())
    figures: dict[str, Any] = as_json(
        benchmark(*arguments, device="cpu", quick=True, model=model, results=str(results))
    )
    assert figures["photos"] == 3
    assert figures["speedup_cold_50"] > 0
    assert 0.9 < figures["bf16_loss_ratio"] < 1.1
    for name in ("speedup_cold_100", "speedup_cold_300", "speedup_warm_100"):
        assert figures[name] is None  # not measured, not guessed
    # Two photos have the model's style, the third has the other.
    assert [figures["details"]["race"][name]["50"]["photos"] for name in ("warm", "engine")] == [2, 3]
    assert figures["vgg_fraction"] > 0
    assert figures["pipeline_fraction"] > 0
    assert figures["train_fraction"] > 0
    (painting,) = figures["details"]["painting"]
    assert painting["seconds"].keys() == {"painter", "torch", "onnxruntime", "openvino"}
    best = min(painting["seconds"][name]["least"] for name in ("onnxruntime", "openvino"))
    assert figures["painting_ratio"] == pytest.approx(best / painting["seconds"]["painter"]["least"])
    assert max(far["mean"] for far in painting["apart"].values()) <= 1.5  # in bf16 on AMX 0.8
    (alone,) = figures["details"]["alone"]
    assert alone["pixels"] == 40 * 32
    assert alone["peak"] > 2**20
    assert figures["details"]["invariance"]["differences"]["alone"]["beyond_1"] <= 0.001
    assert figures["details"]["memory"]["1"]["process"] > 2**20
    json.dumps(figures)
    shown = capsys.readouterr().err
    assert "vgg_fraction" in shown
    lines = [line for line in results.read_text().splitlines() if json.loads(line)["name"] != "size 32"]
    results.write_text("\n".join(lines) + "\n")
    again = as_json(benchmark(*arguments, device="cpu", quick=True, model=model, results=str(results)))
    measured = [line for line in capsys.readouterr().err.splitlines() if line.startswith("measuring")]
    assert measured == ["measuring size 32"]
    assert again | {"details": 0} == figures | {"details": 0}


def test_a_speed_that_fell_back_is_told() -> None:
    assert fallen_back(0.2, 0.9) == "train_fraction is 0.20, expected: 0.3 or more"
    assert fallen_back(0.9, 0.7) == "painting_ratio is 0.70, expected: 0.8 or more"
    assert fallen_back(0.9, None) == ""
