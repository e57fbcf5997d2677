"""Laws of the table of seconds by size; never of a time itself."""

import numpy as np
import pytest
import torch

from batch_nst.data.images.style import StyleImage
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.pipelines.evaluate.speed import COUNTS, measure_speed
from batch_nst.pipelines.inference import FastModel
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Loss, Vgg

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def objectives() -> Objectives:
    loss = Loss(content_layers={"relu1_2": 1.0}, style_layers={"relu1_1": 1.0})
    return Objectives.on(StyleImage.of_pixels(PICTURE), loss, Vgg(), "cpu", "fp32", torch.get_num_threads())


@pytest.fixture(scope="module")
def fast() -> FastModel:
    return FastModel(TransformerNet(4).eval(), {}, torch.device("cpu"))


def test_what_is_extrapolated_is_as_many_iterations_and_the_ratio_is_to_the_model(objectives, fast):
    found = measure_speed(objectives, fast, PICTURE, [32, 48])
    assert found.precision == "cpu fp32"
    assert found.machine["threads"] == torch.get_num_threads()
    assert found.iterations == [100, 300, 500]
    assert [row.size for row in found.sizes] == [32, 48]
    for row in found.sizes:
        assert min(row.iteration, row.model) > 0
        for count in COUNTS:
            assert row.optimisation[str(count)] == pytest.approx(count * row.iteration)
            assert row.speedup[str(count)] == pytest.approx(count * row.iteration / row.model)
