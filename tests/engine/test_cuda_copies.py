"""Laws of the loops on a GPU, without one: nothing in them waits for the device.

Torch's fake tensors have a device and no values. So they run the code that a GPU would run, and whatever
needs a value on the host, or a value of the host on the device, is seen.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.lbfgs import Lbfgs
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import new_step
from batch_nst.engine.training_loss import Weights, training_loss
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss


class Copies(TorchDispatchMode):
    """Collects the operations that copy between host and device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {tensor.device.type for tensor in (*args, result) if isinstance(tensor, Tensor)}
            if len(devices) > 1:
                self.found.append(str(operation))
        return result


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def move(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Give a module fake weights on a GPU; `Module.to` does not convert to fake ones."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(
                    torch.empty_like(weight, device="cuda", dtype=dtype), weight.requires_grad
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device="cuda")


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    return Vgg16(bundled_weights(), PerceptualLoss.layers(Loss()))


@pytest.fixture
def objective(vgg: Vgg16, fake: FakeTensorMode) -> PerceptualLoss:
    move(vgg, torch.bfloat16)
    channels = {layer: conv.out_channels for layer, conv in vgg.convolutions.items()}
    grams = {
        layer: torch.empty(1, channels[layer], channels[layer], device="cuda")
        for layer in Loss().style_layers
    }
    return PerceptualLoss(vgg, Loss(), grams)


def test_an_iteration_of_the_optimiser_copies_nothing(objective: PerceptualLoss) -> None:
    photos = torch.empty(2, 3, 64, 64, device="cuda")
    targets, step, x = objective.content_targets(photos), new_step("lbfgs"), photos
    for number in range(3):
        with Copies() as copies:
            _, gradient = objective.value_and_gradient(x, targets)
            x = step(x, gradient).clamp(0, 255)
        # The first one makes tables: the waves of the preconditioner, and an empty history.
        assert copies.found == [] or number == 0


def test_nor_does_one_whose_history_is_full(fake: FakeTensorMode) -> None:
    solver, x = Lbfgs(history=2), torch.empty(2, 100, device="cuda")
    for number in range(5):
        with Copies() as copies:
            x = solver.step(x, torch.empty(2, 100, device="cuda"))
        assert copies.found == [] or number == 0


def test_the_loss_of_a_training_step_copies_nothing(objective: PerceptualLoss) -> None:
    """Its gradient is autograd's, which runs on no fake device."""
    net = TransformerNet(8)
    move(net)
    photos = torch.empty(2, 3, 64, 64, device="cuda")
    with Copies() as copies:
        loss, parts = training_loss(net, objective, Weights(1.0, 1.0, 1.0, 1.0), photos, photos)
    assert copies.found == []
    assert {part.device.type for part in (loss, *parts.values())} == {"cuda"}


def test_a_copy_is_seen(fake: FakeTensorMode) -> None:
    x = torch.empty(2, 3, device="cuda")
    with Copies() as copies:
        x[:, [0, 2]]
        x.cpu()
    assert len(copies.found) == 2
    with pytest.raises(DataDependentOutputException):
        float(x.sum())
