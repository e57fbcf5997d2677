"""Laws of the measure by a network that no training saw, on the network itself."""

import numpy as np
import pytest
import torch
from PIL import Image

from batch_nst.pipelines.evaluate.independent import IndependentMeasure, is_installed
from batch_nst.pipelines.objective import to_tensor
from tests.support.places import ROOT

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs batch_nst[independent]")


def picture(name: str) -> torch.Tensor:
    with Image.open(ROOT / "batch_nst" / "samples" / name) as image:
        return to_tensor(np.asarray(image.convert("RGB").resize((128, 96)))[None])


def test_a_picture_is_at_no_distance_from_itself_and_noise_is_far() -> None:
    photo, style = picture("content/chelsea.jpg"), picture("styles/great_wave.jpg")
    torch.manual_seed(0)
    noise = torch.rand_like(photo) * 255
    pictures = {"photo": photo, "style": style, "half": (photo + style) / 2, "noise": noise}
    found = IndependentMeasure(style).measure(photo, pictures)
    assert (found["photo"]["content"], found["style"]["style"]) == (0, 0)
    assert 0 < found["half"]["style"] < found["photo"]["style"] < found["noise"]["style"]
    assert 0 < found["half"]["content"] < found["noise"]["content"]


def test_of_several_pictures_each_is_measured_as_it_is_alone() -> None:
    photo, style = picture("content/coffee.jpg"), picture("styles/great_wave.jpg")
    measure = IndependentMeasure(style)
    both = measure.measure(photo, {"photo": photo, "style": style})
    assert measure.measure(photo, {"style": style})["style"] == both["style"]
