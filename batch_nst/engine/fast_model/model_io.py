"""The fast model as bytes, and back. Nothing here touches files."""

from __future__ import annotations

import copy

import torch
from safetensors.torch import save
from torch import Tensor, nn

from batch_nst.engine.fast_model.network import Description, Weights, read_architecture, read_weights
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import WeightsError


def model_bytes(net: TransformerNet) -> bytes:
    """Weights as a safetensors file: float16, torch's names. The same weights always give the same bytes.

    What is published is half as large so, and no worse: a model is scored by its file. Halves round a weight
    by 0.05 % at most. The file has no metadata: safetensors writes it in an order that differs between
    processes.

    Raises:
        WeightsError: a weight is beyond float16, 65,504.
    """
    halves: dict[str, Tensor] = {}
    for name, tensor in sorted(net.state_dict().items()):
        halves[name] = tensor.detach().cpu().half().contiguous()
        if halves[name].isinf().any() and tensor.isfinite().all():
            raise WeightsError(f"tensor {name!r} holds values beyond 65,504, which float16 does not have")
    return save(halves)


def load_net(weights: bytes, card: Description) -> TransformerNet:
    """The network of a model's files, on the CPU, in fp32 and eval mode; draws no random numbers.

    net = load_net(model_bytes(net), {"architecture": {"name": "johnson", "width": 32}, "digests": {}})

    Args and errors are those of `network.read_weights`.
    """
    tensors = read_weights(weights, card)
    architecture = read_architecture(card)
    with torch.device("meta"):  # shapes only
        net = TransformerNet(architecture["width"], architecture["name"])
    net.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, assign=True)
    return net.eval()


def weights_of(net: TransformerNet) -> Weights:
    """The weights of a network on the CPU as numpy's arrays, in fp32."""
    return {name: tensor.detach().float().numpy() for name, tensor in net.state_dict().items()}


@torch.inference_mode()
def stylize_image(net: TransformerNet, image: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Stylize images of one size, from pixels to pixels.

    Args:
        net: a network on `device`.
        image: uint8 (H, W, 3) or (B, H, W, 3), RGB, H and W at least 16, on any device.
        device: where to compute.

    Returns:
        uint8 RGB of the same shape, on the CPU, clamped and rounded to the nearest.

    Raises:
        ValueError: `image` has another dtype or shape.
    """
    if image.dtype != torch.uint8 or image.dim() not in (3, 4) or image.shape[-1] != 3:
        form = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
        raise ValueError(f"image is {form}, expected: uint8 (H, W, 3) or (B, H, W, 3)")
    batch = image if image.dim() == 4 else image[None]
    # A permuted (B, H, W, 3) is already in channels_last memory format.
    stylized: Tensor = net(batch.to(device).permute(0, 3, 1, 2).float() / 255)
    pixels = (stylized.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).reshape(image.shape).cpu()


def one_at_a_time(net: TransformerNet) -> TransformerNet:
    """A network that shares the parameters of `net` and is faster for a batch of one image in channels_last.

    torch's instance normalisation copies its input out of that layout. For a batch of one, batch
    normalisation with the batch's own statistics is the same function and does not copy.
    """
    faster = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for parent in list(faster.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.InstanceNorm2d):
                own = nn.BatchNorm2d(norm.num_features, norm.eps, track_running_stats=False)
                own.weight, own.bias = norm.weight, norm.bias
                setattr(parent, name, own)
    return faster
