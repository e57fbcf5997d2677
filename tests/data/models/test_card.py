"""The README of a model's folder: what the Hub takes, the figures, whose it is, and nothing that changes."""

import copy
import re
from typing import Any

import pytest
import yaml

from batch_nst.data.models.card import EXAMPLE, readme

LOSSES = {"total": 12345.6, "content": 0.25, "style": 120.0, "checkerboard": 0.5}
CARD: dict[str, Any] = {
    "version": "000003-abcdef",
    "batch_nst": "0.1.0",
    "architecture": {"name": "johnson", "width": 32},
    "digests": {"style": "5f" * 32},
    "objective": {
        "loss": {"content_weight": 5.0, "style_weight": 100.0, "tv_weight": 0.0},
        "style_size": 256,
    },
    "recipe": {
        "style": {"image": "s3://private/van_gogh_auvers.jpg"},
        "vgg": {"weights": "bundled"},
        "generate": {"iterations": 300},
        "train": {"batch_size": 8},
    },
    "snapshot": {"number": 3, "digest": "ab" * 16, "counts": {"ok": 1200}},
    "training": {"steps": 4000, "history": []},
    "licenses": {"weights": "cc-by-4.0", "style": "public domain", "photos": "unknown"},
    "evaluation": {
        "photos": 64,
        "size": 256,
        "verdict": "worth 120 iterations of the optimisation (95 % interval: 100 to 150)",
        "photo": {**LOSSES, "distance": 1.5, "ssim": 0.4},
        "optimised": {**LOSSES, "distance": 0.0, "ssim": 1.0},
        "model": {**LOSSES, "distance": 0.125, "ssim": 0.75},
        "larger": {"photos": 0, "size": 512},
    },
}


def test_the_front_matter_is_what_the_hub_takes() -> None:
    found = re.match(r"---\n(.*?\n)---\n", readme(CARD), re.DOTALL)
    assert found
    assert yaml.safe_load(found[1]) == {
        "license": "cc-by-4.0",
        "pipeline_tag": "image-to-image",
        "tags": ["style-transfer", "neural-style-transfer", "onnx"],
    }


def test_it_tells_figures_origin_and_licences() -> None:
    text = readme(CARD)
    for line in (
        "# van gogh auvers: a fast style-transfer model\n",
        "(preview.jpg)",
        f"```python\n{EXAMPLE}```\n",
        "Worth 120 iterations of the optimisation (95 % interval: 100 to 150); on 64 held-out images",
        "| | objective | content loss | style loss | distance to `X` | SSIM to `X` | checkerboard |\n",
        "| `X` | 12,346 | 0.25 | 120 | 0 | 1 | 0.5 |\n",
        "| **the model** | 12,346 | 0.25 | 120 | 0.125 | 0.75 | 0.5 |\n",
        "The objective is 5 x content + 100 x style, measured",
        "Trained on 1,200 pairs",
        "4,000 steps of 8.",
        "`model.onnx`): cc-by-4.0, as the recipe says (`publish.license`)\n",
        "- style image: public domain, as the recipe says (`style.license`)\n",
        "- photos of the pairs: unknown: the recipe does not say (`generate.license`)\n",
        "University of Oxford, CC BY 4.0",
    ):
        assert line in text, line
    assert "private" not in text


def test_r_comes_first_where_it_was_measured() -> None:
    card = copy.deepcopy(CARD)
    card["evaluation"]["ratios"] = {"verdict": "its pictures score 2.10 times what 300 iterations reach"}
    words = (
        "Its pictures score 2.10 times what 300 iterations reach; worth 120 iterations of the optimisation"
    )
    assert words in readme(card)


def test_photos_without_pairs_are_told() -> None:
    card = copy.deepcopy(CARD)
    card["snapshot"]["counts"]["unpaired"] = 900
    text = readme(card)
    assert "Trained on 1,200 pairs of a photo and its `X` and 900 photos without one, snapshot 3" in text


def test_what_is_known_of_twice_the_size_is_told() -> None:
    assert "512" not in readme(CARD)
    card = copy.deepcopy(CARD)
    card["evaluation"]["larger"] = {
        "photos": 8,
        "size": 512,
        "verdict": "worse than the photo",
        "curve": [9.0, 8.0, 7.5],
        "photo": {**LOSSES, "distance": 1.5, "ssim": 0.4},
        "model": {**LOSSES, "total": 7.0, "distance": 0.125, "ssim": 0.75},
    }
    text = readme(card)
    head = "At 512 px, 8 photos: worse than the photo; `X` is the photo after 2 iterations here."
    assert f"\n\n{head}\n\n| | objective |" in text
    assert "| **the model** | 7 | 0.25 | 120 | 0.125 | 0.75 | 0.5 |\n\nHow long" in text


def test_one_is_singular() -> None:
    card = copy.deepcopy(CARD)
    card["recipe"]["generate"]["iterations"] = card["training"]["steps"] = 1
    card["snapshot"]["counts"]["ok"] = card["evaluation"]["photos"] = 1
    card["evaluation"]["larger"] = {**card["evaluation"], "photos": 1, "size": 512, "curve": [2, 1]}
    text = readme(card)
    for line in (
        "; on 1 held-out image of 256 px",
        "`X` is the photo after 1 iteration of",
        "Trained on 1 pair of a photo",
        ": 1 step of 8.",
        "\nAt 512 px, 1 photo: ",
    ):
        assert line in text, line


@pytest.mark.parametrize("name", ["seconds_per_image", "speed", "worth_interval"])
def test_what_another_run_would_measure_anew_changes_no_byte(name: str) -> None:
    other = copy.deepcopy(CARD)
    other["evaluation"][name] = {"model": 1.0}
    assert readme(other) == readme(CARD)
