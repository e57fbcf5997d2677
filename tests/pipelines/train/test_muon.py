"""Laws of Muon: what it does to a matrix, and a step by hand."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.pipelines.train.muon import Muon, matrices, orthogonalised


@pytest.mark.parametrize("shape", [(16, 16), (128, 1152), (64, 27)])
@pytest.mark.parametrize("length", [1e-20, 1.0, 1e10])
def test_singular_values_become_about_one_and_vectors_stay(shape: tuple[int, int], length: float) -> None:
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(-1, 0, len(values))
    found = orthogonalised(length * (left * values) @ right)
    along = left.T @ found @ right.T
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.2
    torch.testing.assert_close(along, along.diagonal().diag(), rtol=0, atol=1e-4)


def test_nothing_stays_nothing() -> None:
    assert orthogonalised(torch.zeros(16, 20)).count_nonzero() == 0


def test_two_steps_by_hand() -> None:
    torch.manual_seed(0)
    start, first, second = torch.randn(3, 16, 2, 3, 3)
    weight = torch.nn.Parameter(start.clone())
    muon = Muon([weight], lr=0.5)
    weight.grad = first
    muon.step()
    average = 0.05 * first
    ahead = 0.05 * first + 0.95 * average
    moved = start - 0.5 * 2 * 18**0.5 * orthogonalised(ahead.view(16, 18)).view(start.shape)
    torch.testing.assert_close(weight.data, moved)
    weight.grad = second
    muon.step()
    average = 0.95 * average + 0.05 * second
    ahead = 0.05 * second + 0.95 * average
    moved -= 0.5 * 2 * 18**0.5 * orthogonalised(ahead.view(16, 18)).view(start.shape)
    torch.testing.assert_close(weight.data, moved)


def test_it_moves_the_weights_of_large_convolutions() -> None:
    net = TransformerNet(32, "johnson")
    named = {id(weight): name for name, weight in net.named_parameters()}
    found = {named[id(weight)] for weight in matrices(net)}
    every = {name for name, weight in net.named_parameters() if weight.ndim == 4}
    assert every - found == {"head.weight"}  # three colours


def moved(rank: int = 0) -> Tensor:
    """A weight after one step; the gradient is as the machine of this process rounds it."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(16, 4, 3, 3))
    weight.grad = torch.randn(16, 4, 3, 3) * (1 + 1e-7 * rank)
    Muon([weight], lr=0.5).step()
    return weight.data


def move_together(rank: int, folder: Path) -> None:
    meeting, patience = f"file://{folder}/meet", timedelta(minutes=10)
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=patience)
    try:
        torch.save(moved(rank), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_all_processes_move_by_the_bits_of_the_first(tmp_path: Path) -> None:
    """This process is the first one."""
    other = multiprocessing.get_context("spawn").Process(
        target=move_together, args=(1, tmp_path), daemon=True
    )
    other.start()
    move_together(0, tmp_path)
    other.join()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(moved(0), moved(1))
    torch.testing.assert_close(first, moved())
