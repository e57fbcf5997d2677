"""Laws of the fast model's convolution: torch's values and gradients, whoever works them out."""

import pytest
import torch
from torch import nn

from batch_nst.engine.convolution import Convolution


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (9, 1)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_those_of_torch(
    images: int, kernel: int, stride: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = Convolution(5, 7, kernel, stride=stride)
    reach = kernel // 2
    mode = "reflect" if reach else "zeros"
    exact = nn.Conv2d(5, 7, kernel, stride, reach, padding_mode=mode).double()
    exact.load_state_dict(ours.state_dict())
    image = torch.randn(images, 5, 16, 19).contiguous(memory_format=layout)
    found = []
    for conv, dtype in ((ours, torch.float32), (exact, torch.float64)):
        pixels = image.to(dtype).requires_grad_()
        made = conv(pixels)
        found.append([made.detach(), *torch.autograd.grad(made.sin().sum(), [pixels, *conv.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
