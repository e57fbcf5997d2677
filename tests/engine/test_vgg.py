"""Laws of VGG-16: the published weights, torchvision's activations, cut off where nothing is asked for."""

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor

from batch_nst.data import vgg_weights
from batch_nst.data.vgg_weights import BUNDLED_SHA256, bundled_weights
from batch_nst.engine.vgg import Vgg16
from batch_nst.errors import WeightsError
from batch_nst.recipe import VGG_LAYERS
from tests.support.places import SAMPLES

OXFORD_MEAN = (123.68, 116.779, 103.939)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return bundled_weights()


@pytest.fixture(scope="module")
def tensors(weights: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(weights)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """(1, 3, 50, 61), RGB, 0..255; odd sizes, which pooling rounds down."""
    with Image.open(SAMPLES / "content" / "chelsea.jpg") as image:
        return pil_to_tensor(image.convert("RGB").resize((61, 50)))[None].float()


def test_the_bundled_weights_are_the_published_ones(tensors: dict[str, Tensor]) -> None:
    """Single values that the Keras, MatConvNet and Knet conversions print: see weights/README.md."""
    first = tensors["features.0.weight"].float()
    assert first.shape == (64, 3, 3, 3)
    # Stored as float16: a relative rounding of at most 2^-11.
    close = {"rel": 2**-11, "abs": 0}
    assert first[0, 2, 0, 0].item() == pytest.approx(0.42947057, **close)  # blue
    assert first[0, 0, 0, 0].item() == pytest.approx(0.4800154, **close)  # red
    assert tensors["features.0.bias"][:3].tolist() == pytest.approx(
        [0.73429835, 0.09340367, 0.06775674], **close
    )
    assert tensors["features.2.weight"][0, 0, 0, 0].item() == pytest.approx(0.16621928, **close)
    assert tensors["features.2.bias"][0].item() == pytest.approx(-0.30912212, **close)
    assert tensors["features.5.weight"][0, 0, 0, 0].item() == pytest.approx(-0.008902963, **close)
    assert tensors["features.7.weight"][0, 0, 0, 0].item() == pytest.approx(-0.0023012366, **close)


def test_weights_of_another_digest_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vgg_weights, "BUNDLED_SHA256", 64 * "0")
    with pytest.raises(WeightsError, match=f"sha256 {BUNDLED_SHA256}, must be {64 * '0'}; reinstall"):
        bundled_weights()


def test_every_layer_agrees_with_torchvision(
    weights: bytes, tensors: dict[str, Tensor], photo: Tensor
) -> None:
    features = torchvision.models.vgg16(weights=None).features
    features.load_state_dict({key.removeprefix("features."): value.float() for key, value in tensors.items()})
    x = photo - torch.tensor(OXFORD_MEAN).view(3, 1, 1)
    expected = []
    with torch.no_grad():
        for module in features:
            x = module(x)
            if isinstance(module, torch.nn.ReLU):
                expected.append(x.clone())
        found = Vgg16(weights, VGG_LAYERS)(photo)
    assert tuple(found) == VGG_LAYERS
    for name, reference in zip(VGG_LAYERS, expected, strict=True):
        assert found[name].shape == reference.shape
        assert reference.norm() > 0
        assert ((found[name] - reference).norm() / reference.norm()).item() < 1e-4, name


def test_torchvisions_convention_is_its_normalisation_of_images_in_0_1(weights: bytes, photo: Tensor) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of every classification model of torchvision
    normalised = normalize(photo / 255, list(mean), list(std))
    vgg = Vgg16(weights, {"relu1_1", "relu2_1"}, "torchvision")
    # The Oxford network subtracts its mean: adding it first gives this very input to the convolutions.
    raw = Vgg16(weights, {"relu1_1", "relu2_1"}, "oxford")
    expected = raw(normalised + torch.tensor(OXFORD_MEAN).view(3, 1, 1))
    for name, activation in vgg(photo).items():
        torch.testing.assert_close(activation, expected[name], rtol=0, atol=2e-4)
        assert expected[name].max() > 1


@pytest.mark.parametrize(
    ("layers", "convolutions"),
    [({"relu1_1"}, 1), ({"relu2_1", "relu1_2"}, 3), ({"relu4_3", "relu1_1"}, 10), (set(VGG_LAYERS), 13)],
)
def test_the_network_ends_with_the_deepest_layer_asked_for(
    weights: bytes, layers: set[str], convolutions: int
) -> None:
    vgg = Vgg16(weights, layers)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in vgg.modules()) == convolutions
    assert set(vgg(torch.zeros(1, 3, 16, 16))) == layers


def test_only_the_layers_down_to_the_deepest_are_needed(tensors: dict[str, Tensor], photo: Tensor) -> None:
    two = {key: value for key, value in tensors.items() if key.split(".")[1] in "02"}
    assert len(two) == 4
    full = Vgg16(safetensors.torch.save(tensors), ["relu1_2"])(photo)
    assert torch.equal(Vgg16(safetensors.torch.save(two), ["relu1_2"])(photo)["relu1_2"], full["relu1_2"])


def test_neither_their_order_nor_more_layers_change_one(weights: bytes, photo: Tensor) -> None:
    names = ("relu1_1", "relu1_2", "relu2_2")
    found, more = Vgg16(weights, names[::-1])(photo), Vgg16(weights, VGG_LAYERS[:5])(photo)
    assert list(found) == list(names)
    assert all(torch.equal(found[name], more[name]) for name in names)


def test_the_image_is_left_as_it_is(weights: bytes, photo: Tensor) -> None:
    before = photo.clone()
    Vgg16(weights, ["relu1_1"])(photo)
    assert torch.equal(photo, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_activations_have_the_networks_dtype_and_agree_within_it(
    weights: bytes, photo: Tensor, dtype: torch.dtype
) -> None:
    vgg = Vgg16(weights, ["relu2_2"]).at("cpu", dtype)
    found = vgg(photo.double() if dtype == torch.float64 else photo)["relu2_2"]
    reference = Vgg16(weights, ["relu2_2"])(photo)["relu2_2"]
    assert vgg.dtype == found.dtype == dtype
    # bf16 rounds weights, the image and each of four layers to 2^-9.
    tolerance = 6 * 2**-9 if dtype == torch.bfloat16 else 1e-5
    assert ((found.double() - reference.double()).norm() / reference.double().norm()).item() < tolerance


# Files that are no VGG-16


def faulty(data: bytes) -> str:
    with pytest.raises(WeightsError) as error:
        Vgg16(data, ["relu2_1", "relu4_1"], source="s3://bucket/vgg.safetensors")
    assert error.value.exit_code == 2
    text = str(error.value)
    assert text.startswith("s3://bucket/vgg.safetensors: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # 0 conv1_1, 2 conv1_2, 4 pool, 5 conv2_1, 7 conv2_2, 9 pool, 10 conv3_1
        ({"features.10.bias": None}, "lacks features.10.bias (relu3_1)"),
        ({"features.5.weight": None}, "lacks features.5.weight (relu2_1)"),
        ({"features.0.weight": None}, "lacks features.0.weight (relu1_1); is it a VGG-16"),
        (
            {"features.2.weight": torch.zeros(32, 64, 3, 3)},
            "features.2.weight (relu1_2) has shape [32, 64, 3, 3], must be [64, 64, 3, 3]",
        ),
    ],
)
def test_a_wrong_layer_is_named(
    tensors: dict[str, Tensor], changes: dict[str, Tensor | None], told: str
) -> None:
    changed = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    assert told in faulty(safetensors.torch.save(changed))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 64,
        np.random.default_rng(0).bytes(4096),
        pickle.dumps({"features.0.weight": [0.0]}),
        b"<html><body>404 Not Found</body></html>",
    ],
    ids=["empty", "zeros", "random", "pickle", "an error page"],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    assert "is not a safetensors file" in faulty(data)


def test_a_file_cut_short_is_refused(weights: bytes) -> None:
    assert "is not a safetensors file" in faulty(weights[: len(weights) // 2])
