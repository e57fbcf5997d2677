"""The fast model as bytes, and back: `model.safetensors` and `model.onnx`. Nothing here touches files."""

from __future__ import annotations

import copy
import hashlib
from typing import TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.errors import RecipeError, WeightsError
from batch_nst.recipe import NETWORKS, Network

OPSET = 18
"""ONNX operator set of the graphs: the oldest that torch's exporter writes, for old runtimes."""

_MOST_WIDTH = 1024


class Architecture(TypedDict):
    """The network of a model."""

    name: Network
    width: int


class Description(TypedDict):
    """The keys of `model.json` that `load_net` reads; either may be missing or invalid."""

    architecture: Architecture
    digests: dict[str, str]


def model_bytes(net: TransformerNet) -> bytes:
    """Weights as a safetensors file: float32, PyTorch's names. The same weights always give the same bytes.

    The file has no metadata: safetensors writes it in an order that differs between processes.
    """
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in net.state_dict().items()}
    return save(dict(sorted(tensors.items())))


def load_net(weights: bytes, card: Description) -> TransformerNet:
    """The network whose weights `model_bytes` wrote, on the CPU, in eval mode; draws no random numbers.

    net = load_net(model_bytes(net), {"architecture": {"name": "johnson", "width": 32}, "digests": {}})

    Args:
        weights: bytes of `model.safetensors`.
        card: the content of `model.json`: `architecture` with a name among `NETWORKS`, and, optionally,
            `digests["model.safetensors"]`, SHA-256 in hex.

    Raises:
        WeightsError: the digest differs, the architecture is unknown, or `weights` is not a safetensors file;
            or a tensor is missing, unexpected, of another shape or dtype, or not finite.
    """
    expected_digest = card.get("digests", {}).get("model.safetensors")
    digest = hashlib.sha256(weights).hexdigest()
    if expected_digest is not None and digest != expected_digest:
        raise WeightsError(f"model.safetensors: sha256 is {digest}, but model.json says {expected_digest}")

    architecture = card.get("architecture")
    match architecture:
        case {"name": str(network), "width": int(width)} if network in NETWORKS and 0 < width <= _MOST_WIDTH:
            with torch.device("meta"):  # shapes only
                net = TransformerNet(width, network)
        case _:
            raise WeightsError(
                f"model.json: architecture is {architecture!r}; "
                f"allowed: name {' or '.join(map(repr, NETWORKS))}, and a width from 1 to {_MOST_WIDTH}"
            )

    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise WeightsError(f"model.safetensors: not a safetensors file: {error}") from error
    expected = net.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        given, wanted = _form(tensors.get(name)), _form(expected.get(name))
        if given != wanted:
            raise WeightsError(f"model.safetensors: tensor {name!r} is {given}, expected: {wanted}")
        if not tensors[name].isfinite().all():  # its images would be black, with finite losses
            raise WeightsError(f"model.safetensors: tensor {name!r} holds NaN or infinite values")
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def _form(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


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
        raise ValueError(f"image is {_form(image)}, expected: uint8 (H, W, 3) or (B, H, W, 3)")
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


class _Clamped(nn.Module):
    """The function of the ONNX graph: the network, with its result clamped to 0..1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        stylized: Tensor = self.net(image)
        return stylized.clamp(0, 1)


def onnx_bytes(net: TransformerNet) -> bytes:
    """The network as one self-contained ONNX file; the same weights and library versions give the same bytes.

    Input `image` and output `stylized` are float32 (batch, 3, height, width), RGB in 0..1. Batch, height and
    width are free (at least 16 pixels); the output is clamped.

    Raises:
        RecipeError: the packages onnx and onnxscript are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ModuleNotFoundError as error:
        raise RecipeError(f"{error}; ONNX export needs: pip install 'batch_nst[onnx]'") from error

    batch = torch.export.Dim("batch")
    height, width = torch.export.Dim("height", min=16), torch.export.Dim("width", min=16)
    with torch.no_grad():
        program = torch.onnx.export(
            _Clamped(copy.deepcopy(net).cpu().float()).eval(),
            (
                torch.zeros(2, 3, 37, 50),
            ),  # no side is 1 and no two are equal, or the tracer would assume it always
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["stylized"],
            dynamic_shapes=({0: batch, 2: height, 3: width},),
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns a program
    model = program.model_proto  # built again on every access
    graph = model.graph
    # The tracer stores its Python stack with every node: paths that make the bytes differ between machines.
    for part in (model, graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    # The output has the size of the input, which the tracer writes as a formula of height and width.
    graph.output[0].type.CopyFrom(graph.input[0].type)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
