"""Laws of VGG-16: the published weights, torchvision's activations, cut off where nothing is asked for."""

import pickle

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


def test_oxfords_convention_is_the_default_and_maps_its_mean_to_zero(weights: bytes) -> None:
    vgg = Vgg16(weights, {"relu1_1"})
    flat = torch.tensor(OXFORD_MEAN).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    bias = vgg.convolutions["relu1_1"].bias
    torch.testing.assert_close(
        vgg(flat)["relu1_1"], bias.relu().view(1, 64, 1, 1).expand(1, 64, 4, 4), rtol=0, atol=1e-4
    )


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


def test_the_order_of_the_layers_asked_for_is_irrelevant(weights: bytes, photo: Tensor) -> None:
    names = ("relu1_1", "relu1_2", "relu2_2")
    one, other = Vgg16(weights, names)(photo), Vgg16(weights, names[::-1])(photo)
    assert list(one) == list(other) == list(names)
    assert all(torch.equal(one[name], other[name]) for name in names)


def test_asking_for_more_layers_changes_none(weights: bytes, photo: Tensor) -> None:
    few, all_of_them = Vgg16(weights, ["relu2_1"])(photo), Vgg16(weights, VGG_LAYERS[:5])(photo)
    assert torch.equal(few["relu2_1"], all_of_them["relu2_1"])


def test_parameters_need_no_gradient_and_pixels_get_one(weights: bytes, photo: Tensor) -> None:
    vgg = Vgg16(weights, ["relu2_1"])
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    pixels = photo.clone().requires_grad_()
    vgg(pixels)["relu2_1"].sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in vgg.parameters())


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


def test_a_missing_layer_is_named(tensors: dict[str, Tensor]) -> None:
    # 0 conv1_1, 2 conv1_2, 4 pool, 5 conv2_1, 7 conv2_2, 9 pool, 10 conv3_1
    for key, layer in (("features.10.bias", "relu3_1"), ("features.5.weight", "relu2_1")):
        rest = {name: tensor for name, tensor in tensors.items() if name != key}
        assert f"lacks {key} ({layer})" in faulty(safetensors.torch.save(rest))


def test_other_names_are_no_vgg16(tensors: dict[str, Tensor]) -> None:
    renamed = {f"vgg.{name}": tensor for name, tensor in tensors.items()}
    assert "lacks features.0.weight (relu1_1); is it a VGG-16" in faulty(safetensors.torch.save(renamed))


def test_a_wrong_shape_is_named_with_the_right_one(tensors: dict[str, Tensor]) -> None:
    narrow = tensors | {"features.2.weight": torch.zeros(32, 64, 3, 3)}
    expected = "features.2.weight (relu1_2) has shape [32, 64, 3, 3], must be [64, 64, 3, 3]"
    assert expected in faulty(safetensors.torch.save(narrow))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 64,
        torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        .numpy()
        .tobytes(),
        pickle.dumps({"features.0.weight": [0.0]}),
        b"<html><body>404 Not Found</body></html>",
    ],
    ids=["empty", "zeros", "random", "pickle", "an error page"],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    assert "is not a safetensors file" in faulty(data)


def test_a_file_cut_short_is_refused(weights: bytes) -> None:
    assert "is not a safetensors file" in faulty(weights[: len(weights) // 2])
