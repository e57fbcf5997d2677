"""Laws of tiles: what the whole net paints, no seam, and no more at once than a tile and its reach."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from batch_nst.engine.fast_model import tiling
from batch_nst.engine.fast_model.model_io import one_at_a_time, stylize_image
from batch_nst.engine.fast_model.tiling import stylize_tiles
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.recipe import NETWORKS

TILE = 32


@pytest.fixture(scope="module", params=NETWORKS)
def net(request: pytest.FixtureRequest) -> TransformerNet:
    torch.manual_seed(0)
    net = TransformerNet(8, request.param)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def photo(height: int, width: int) -> Tensor:
    """Dark and smooth on the left, bright and rough on the right: no two tiles have the same statistics."""
    torch.manual_seed(height * width)
    across = torch.linspace(0, 1, width)
    noise = torch.randn(height, width, 3) * (5 + 50 * across[:, None])
    return (20 + 200 * across[:, None] + noise).clamp(0, 255).to(torch.uint8)


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Of each pixel, the greatest difference in grey levels."""
    return (one.int() - other.int()).abs().amax(-1)


def seams(difference: Tensor) -> Tensor:
    """Those of the pixels on both sides of every border between tiles."""
    height, width = difference.shape
    rows = [row for top in range(TILE, height, TILE) for row in (top - 1, top)]
    columns = [column for left in range(TILE, width, TILE) for column in (left - 1, left)]
    return torch.cat([difference[rows].flatten(), difference[:, columns].flatten()])


@pytest.mark.parametrize("size", [(96, 160), (97, 131), (33, 66), (16, 150), (129, 34)])
@pytest.mark.parametrize("change", [lambda net: net, one_at_a_time], ids=["net", "one_at_a_time"])
def test_tiles_are_the_whole_picture_to_a_grey_level_and_no_seam_shows(
    net: TransformerNet, size: tuple[int, int], change: Callable[[TransformerNet], TransformerNet]
) -> None:
    image = photo(*size)
    whole, tiled = stylize_image(net, image), stylize_tiles(change(net), image, tile=TILE)
    assert (tiled.dtype, tiled.shape) == (torch.uint8, image.shape)
    difference = apart(whole, tiled)
    assert difference.max() <= 1  # a half is rounded up by the one and down by the other
    assert (difference > 0).float().mean() < 0.01
    assert (seams(difference) > 0).float().mean() < 0.01


def test_tiles_that_are_painted_each_by_itself_do_not_fit_together(net: TransformerNet) -> None:
    """So the test above can fail."""
    image = photo(96, 160)
    alone = torch.cat(
        [
            torch.cat([stylize_image(net, part.contiguous()) for part in band.split(TILE, 1)], 1)
            for band in image.split(TILE)
        ]
    )
    assert seams(apart(stylize_image(net, image), alone)).float().mean() > 10


def test_the_size_of_tiles_changes_nothing(net: TransformerNet) -> None:
    image = photo(70, 90)
    painted = [stylize_tiles(net, image, tile=tile) for tile in (16, 24, 512)]
    for other in painted[1:]:
        assert apart(painted[0], other).max() <= 1


def test_in_bf16_it_is_as_close_to_the_exact_picture_as_the_whole_is(net: TransformerNet) -> None:
    image = photo(96, 160)
    exact = stylize_image(net, image)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        whole, tiled = stylize_image(net, image), stylize_tiles(net, image, tile=TILE)
    assert apart(exact, tiled).float().mean() < 1.5 * apart(exact, whole).float().mean() + 0.5


def test_no_convolution_sees_more_than_a_tile_and_its_reach(
    net: TransformerNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def conv2d(values: Tensor, *rest: object, **more: object) -> Tensor:
        seen.append(max(values.shape[2:]))
        return original(values, *rest, **more)

    original = F.conv2d
    monkeypatch.setattr(tiling.F, "conv2d", conv2d)
    stylize_tiles(net, photo(150, 450), tile=TILE)
    # The stem's 9 x 9 or 5 x 5 below a convolution that takes every second pixel.
    assert max(seen) == 2 * TILE + 1 + net.stem[0].kernel_size[0] - 1
