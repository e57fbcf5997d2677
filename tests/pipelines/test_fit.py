"""Laws of one step of training."""

import math

import pytest
import torch

from batch_nst.engine.johnson import Weights
from batch_nst.pipelines.fit import take_step, weights_at
from batch_nst.recipe import Train


def test_weights_follow_their_schedules() -> None:
    settings = Train(
        feature_weight=[[0, 5], [0.5, 1]], pixel_weight=2.0, perceptual_weight=[[0.5, 0], [1, 1]]
    )
    assert weights_at(settings, 0.0) == Weights(perceptual=0.0, feature=5.0, pixel=2.0)
    assert weights_at(settings, 0.25) == Weights(perceptual=0.0, feature=3.0, pixel=2.0)
    assert weights_at(settings, 1.0) == Weights(perceptual=1.0, feature=1.0, pixel=2.0)


def test_a_step_goes_along_the_gradient_of_all_parameters_cut_to_length_10() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 1))]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    assert take_step(optimizer, parameters, torch.tensor([0.0, 3.0, 4.0]), rate=0.5)
    torch.testing.assert_close(parameters[0].data, torch.tensor([0.0, -1.5]))
    torch.testing.assert_close(parameters[1].data, torch.tensor([[-2.0]]))
    assert take_step(optimizer, parameters, torch.tensor([0.0, 0.0, -40.0]), rate=0.5)
    torch.testing.assert_close(parameters[1].data, torch.tensor([[3.0]]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_where_a_gradient_is_no_number_nothing_changes(wrong: float) -> None:
    parameters = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    assert take_step(optimizer, parameters, torch.tensor([1.0, 2.0, 3.0]), rate=0.1)
    before = parameters[0].detach().clone(), float(optimizer.state[parameters[0]]["step"])
    assert not take_step(optimizer, parameters, torch.tensor([1.0, wrong, 3.0]), rate=0.1)
    assert torch.equal(parameters[0], before[0])
    assert float(optimizer.state[parameters[0]]["step"]) == before[1]
