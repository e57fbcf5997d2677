"""Laws of one step of training, and of steps that another start goes on with."""

import copy
import io
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from batch_nst.data.dataset import units
from batch_nst.data.dataset.sampler import Batch, Share
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.images.style import StyleImage
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.training_loss import Weights
from batch_nst.pipelines.objective import Objectives
from batch_nst.pipelines.train.trainer import Trainer, rate_at, take_step, weights_at
from batch_nst.recipe import Loss, Network, Train, Vgg
from tests.support.read_batches import drawn

SIDE, STEPS, BATCH = 40, 5, 3
SETTINGS = Train(
    steps=STEPS,
    batch_size=BATCH,
    width=4,
    crop_size=32,
    crop_until=0.5,
    learning_rate=[[0, 1e-2], [1, 1e-3]],
    feature_weight=[[0, 5], [1, 0]],
)


def test_weights_follow_their_schedules() -> None:
    settings = Train(
        feature_weight=[[0, 5], [0.5, 1]],
        pixel_weight=2.0,
        perceptual_weight=[[0.5, 0], [1, 1]],
        content_factor=[[0.5, 1], [1, 2]],
    )
    assert weights_at(settings, 0.0) == Weights(perceptual=0.0, feature=5.0, pixel=2.0, checkerboard=0.1)
    assert weights_at(settings, 0.25) == Weights(perceptual=0.0, feature=3.0, pixel=2.0, checkerboard=0.1)
    last = Weights(perceptual=1.0, feature=1.0, pixel=2.0, checkerboard=0.1, content_factor=2.0)
    assert weights_at(settings, 1.0) == last


def test_crops_come_first_and_whole_pictures_last() -> None:
    settings = Train(steps=10, crop_size=32, crop_until=0.75)
    assert [settings.crop_at(step) for step in range(10)] == 8 * [32] + 2 * [None]
    assert {Train(steps=10, crop_size=32).crop_at(step) for step in range(10)} == {32}


def test_the_learning_rate_warms_up_and_then_follows_its_schedule() -> None:
    settings = Train(steps=101, learning_rate=[[0, 1.0], [1, 0.5]])
    assert rate_at(settings, 1) == pytest.approx(1 / 20)
    assert rate_at(settings, 51) == pytest.approx(0.75)
    assert rate_at(settings, 101) == pytest.approx(0.5)


def test_a_step_goes_along_the_gradient_of_all_parameters_cut_to_length_10() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 1))]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    take_step([optimizer], parameters, torch.tensor([0.0, 3.0, 4.0]), rate=0.5)
    torch.testing.assert_close(parameters[0].data, torch.tensor([0.0, -1.5]))
    torch.testing.assert_close(parameters[1].data, torch.tensor([[-2.0]]))
    take_step([optimizer], parameters, torch.tensor([0.0, 0.0, -40.0]), rate=0.5)
    torch.testing.assert_close(parameters[1].data, torch.tensor([[3.0]]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Snapshot]:
    """Five pairs of noise in two units; a pass ends within a batch."""
    store = Store(str(tmp_path_factory.mktemp("pairs")))
    rng = np.random.default_rng(0)

    def picture() -> dict[str, object]:
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        return {"bytes": encode(pixels, "png"), "path": None}

    entries = []
    for unit, numbers in enumerate(([0, 1, 2], [3, 4])):
        rows = [
            {
                "id": bytes([number]) * 16,
                "uri": f"{number}.png",
                "split": "train",
                "status": "ok",
                "content": picture(),
                "stylized": picture(),
            }
            for number in numbers
        ]
        entries.append({**units.commit_unit(store, f"{unit:032x}", rows, digest=""), "left_out": 0})
    return store, Snapshot(1, 1, "", {"ok": 5}, entries, [])


@pytest.fixture(scope="module")
def objectives() -> Objectives:
    loss = Loss(content_layers={"relu1_2": 1.0}, style_layers={"relu1_1": 1.0, "relu2_1": 1.0})
    style = StyleImage.of_pixels(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    return Objectives.on(style, loss, Vgg(), "cpu", "fp32", 1)


def begun(objectives: Objectives, seed: int = 0, settings: Train = SETTINGS) -> Trainer:
    torch.manual_seed(seed)
    net = TransformerNet(settings.width, settings.network)
    return Trainer(settings, objectives, net, threads=1, at_once=2)


def batches(dataset: tuple[Store, Snapshot], steps: int, start: int = 0) -> Iterator[Batch]:
    return drawn(*dataset, Share(0, BATCH), steps, start, SETTINGS.crop_at)


def test_photos_without_pairs_may_have_any_optimised_image_and_distances_are_means_over_pairs(
    dataset: tuple[Store, Snapshot], objectives: Objectives
) -> None:
    (whole,) = batches(dataset, 1)
    mixed = whole._replace(paired=(True, False, True))
    other = mixed._replace(optimised=mixed.optimised.copy())
    other.optimised[1] = 7
    one, two, pairs, all_of_it = (begun(objectives) for _ in range(4))
    parts = one.train_step(mixed)
    assert two.train_step(other) == parts
    assert_same(one, two)
    of_pairs = pairs.train_step(Batch(whole.content[::2], whole.optimised[::2]))
    for name in ("feature", "pixel"):
        assert parts[name] == pytest.approx(of_pairs[name], rel=1e-6)
    assert all_of_it.train_step(whole._replace(paired=(True,) * BATCH)).keys() == parts.keys()
    untaught = begun(objectives)
    parts = untaught.train_step(whole._replace(paired=(False,) * BATCH))
    assert (parts["feature"], parts["pixel"]) == (0, 0)


def stored(training: Trainer) -> bytes:
    """Its state as a checkpoint holds it: equal bytes, equal state."""
    file = io.BytesIO()
    torch.save(training.state(), file)
    return file.getvalue()


def assert_same(one: Trainer, other: Trainer) -> None:
    def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            if isinstance(each, dict | list):
                yield from flat(each, f"{name}.{key}")
            else:
                yield f"{name}.{key}", each

    left, right = dict(flat(one.state())), dict(flat(other.state()))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[name]), name
        else:
            assert value == right[name], name
    assert one.history == other.history


@pytest.mark.parametrize(("network", "optimizer"), [("skip", "muon"), ("small", "adam")])
def test_a_training_that_was_cut_off_after_any_step_ends_to_the_bit_as_an_uninterrupted_one(
    dataset: tuple[Store, Snapshot], objectives: Objectives, network: Network, optimizer: str
) -> None:
    settings = SETTINGS.model_copy(update={"network": network, "optimizer": optimizer})
    whole = begun(objectives, settings=settings)
    checkpoints = []
    for batch in batches(dataset, STEPS):
        checkpoints.append((stored(whole), list(whole.history)))
        whole.train_step(batch)
    assert [point["step"] for point in whole.history] == list(range(1, STEPS + 1))
    for cut, (state, history) in enumerate(checkpoints):
        resumed = begun(objectives, 99, settings)  # the weights it is made with are of no account
        resumed.restore(torch.load(io.BytesIO(state), weights_only=True), history)
        for batch in batches(dataset, STEPS, cut):
            resumed.train_step(batch)
        assert_same(resumed, whole)


def spoil(training: Trainer, wrong: float = math.nan) -> None:
    """One of its weights becomes `wrong`."""
    training.net.stem[0].weight.data[0, 0, 0, 0] = wrong


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_counts(
    dataset: tuple[Store, Snapshot], objectives: Objectives, wrong: float
) -> None:
    training = begun(objectives)
    batch = next(batches(dataset, 1))
    training.train_step(batch)
    spoil(training, wrong)
    before = copy.deepcopy(training.state())
    training.train_step(batch)
    assert (training.step, training.skipped) == (2, 1)
    for name in ("average", "optimizer", "muon", "net"):
        torch.testing.assert_close(training.state()[name], before[name], rtol=0, atol=0, equal_nan=True)


def test_steps_that_were_not_taken_survive_a_checkpoint_and_fifty_in_a_row_end_a_training(
    dataset: tuple[Store, Snapshot], objectives: Objectives
) -> None:
    training = begun(objectives)
    batch = next(batches(dataset, 1))
    training.train_step(batch)
    spoil(training)
    training.train_step(batch)
    resumed = begun(objectives, settings=SETTINGS.model_copy(update={"steps": 1000}))
    resumed.restore(training.state(), training.history)
    with pytest.raises(FloatingPointError, match=r"step 51: .* lower train\.learning_rate"):
        list(map(resumed.train_step, [batch] * 50))


def test_a_training_of_which_no_step_was_taken_does_not_end(
    dataset: tuple[Store, Snapshot], objectives: Objectives
) -> None:
    training = begun(objectives)
    spoil(training)
    with pytest.raises(FloatingPointError, match=rf"step {STEPS}: .* of {STEPS} steps in a row"):
        list(map(training.train_step, batches(dataset, STEPS)))


def test_the_first_step_that_is_taken_is_in_the_curve(
    dataset: tuple[Store, Snapshot], objectives: Objectives
) -> None:
    training = begun(objectives, settings=SETTINGS.model_copy(update={"steps": 1000}))
    batch = next(batches(dataset, 1))
    whole = training.net.stem[0].weight[0, 0, 0, 0].item()
    spoil(training)
    training.train_step(batch)
    spoil(training, whole)
    training.train_step(batch)
    assert [point["step"] for point in training.history] == [2]


def test_painting_the_panel_changes_nothing(dataset: tuple[Store, Snapshot], objectives: Objectives) -> None:
    plain, shown = begun(objectives), begun(objectives)
    photos = [np.full((SIDE, SIDE, 3), number, np.uint8) for number in (50, 200)]
    for batch in batches(dataset, 3):
        plain.train_step(batch)
        shown.train_step(batch)
        pictures = shown.stylize_panel(photos)
        assert [picture.shape for picture in pictures] == [(SIDE, SIDE, 3)] * 2
    assert_same(shown, plain)
