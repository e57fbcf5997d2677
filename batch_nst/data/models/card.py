"""The `README.md` of a model's folder: `model.json` in words, and how to use the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import yaml

from batch_nst.data.dataset.manifest import LossSettings
from batch_nst.data.models.evaluation import Enlarged, Evaluation
from batch_nst.data.models.registry import ModelCard

_TEMPLATE = """\
---
{front}---

# {title}: a fast style-transfer model

One pass of a small network stylizes a photo in the style of one image. Version `{version}`, made by
batch_nst {batch_nst}.

![the style image, and photos with their optimised and stylized images](preview.jpg)

At the top the style image. Each row below shows a photo that the model never saw, its optimised image `X`,
and the image that the model makes.

| file | |
| --- | --- |
| `model.safetensors` | the weights, float16, under PyTorch's names |
| `model.onnx` | the same as an ONNX graph, once `batch-nst export` or `nightly` has written it |
| `model.json` | what decided the weights, the training curve, all figures, SHA-256 of the other files |
| `preview.jpg` | the picture above |

## Use

The graph (operator set 18) maps `image` to `stylized`: float32, NCHW, RGB in 0..1, any batch size, any height
and width of at least 16 pixels. With onnxruntime and Pillow:

```python
{example}```

`python stylize.py model.onnx photo.jpg stylized.png` runs it. The following does the same for an image, a
folder, a bucket or a dataset. Large images are processed in tiles, and GPUs are used if there are any:

```sh
batch-nst apply models/{version} IN OUT
```

## Figures

{verdict}; on {photos} of {size} px, geometric means (arithmetic for SSIM and checkerboard):

{scores}

`X` is the photo after {iterations} of optimisation. The objective is {objective}, measured with
VGG-16; lower is better. The distance is that of VGG features, 0 if equal. SSIM is that of luminance, 1 if
equal. The checkerboard artefact is the part that repeats every four pixels, in grey levels of 255.
{larger}How long it takes depends on the machine; `report.html` of the run that evaluated it has times of one.

## How it was made

- The style image has the SHA-256 `{style}`, and was used with a short side of {style_size} px.
- Trained on {photos_taught}, snapshot {snapshot} (digest `{digest}`): {steps} of {batch_size}.
- The network is `{architecture}` of width {width}.

## Licences

- weights (`model.safetensors`, `model.onnx`): {weights_license}
- style image: {style_license}
- photos of the pairs: {photos_license}
- VGG-16, which measured the objective, is in none of these files{vgg_license}.
"""

EXAMPLE = """\
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

photo = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
image = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255
(stylized,) = session.run(["stylized"], {"image": image})
pixels = np.rint(255 * stylized[0].transpose(1, 2, 0)).astype(np.uint8)
Image.fromarray(pixels).save(target)
"""
"""A program that uses `model.onnx` without this package."""

Part = Literal["total", "content", "style", "distance", "ssim", "checkerboard"]
Picture = Literal["photo", "optimised", "model"]

_PARTS: dict[Part, str] = {
    "total": "objective",
    "content": "content loss",
    "style": "style loss",
    "distance": "distance to `X`",
    "ssim": "SSIM to `X`",
    "checkerboard": "checkerboard",
}
_PICTURES: dict[Picture, str] = {
    "photo": "the photo itself",
    "optimised": "`X`",
    "model": "**the model**",
}
_TERMS: dict[Literal["content_weight", "style_weight", "tv_weight"], str] = {
    "content_weight": "content",
    "style_weight": "style",
    "tv_weight": "total variation",
}


def readme(card: ModelCard) -> str:
    """Markdown with a YAML header, as the Hugging Face Hub takes it; without times or names of photos.

    Args:
        card: `model.json` of an evaluated model.
    """
    evaluation, recipe, licenses = card["evaluation"], card["recipe"], card["licenses"]
    front = {
        "license": licenses["weights"],
        "pipeline_tag": "image-to-image",
        "tags": ["style-transfer", "neural-style-transfer", "onnx"],
    }
    bundled = recipe["vgg"]["weights"] == "bundled"
    return _TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=_title(recipe["style"]["image"]),
        version=card["version"],
        batch_nst=card["batch_nst"],
        example=EXAMPLE,
        verdict=_verdict(evaluation),
        photos=_count(evaluation["photos"], "held-out image"),
        size=evaluation["size"],
        scores=_table(evaluation),
        iterations=_count(recipe["generate"]["iterations"], "iteration"),
        objective=_objective(card["objective"]["loss"]),
        larger=_larger(evaluation.get("larger")),
        style=card["digests"]["style"],
        style_size=card["objective"]["style_size"],
        photos_taught=_photos_taught(card["snapshot"]["counts"]),
        snapshot=card["snapshot"]["number"],
        digest=card["snapshot"]["digest"],
        steps=_count(card["training"]["steps"], "step"),
        batch_size=recipe["train"]["batch_size"],
        architecture=card["architecture"]["name"],
        width=card["architecture"]["width"],
        weights_license=_license(licenses["weights"], "publish.license"),
        style_license=_license(licenses["style"], "style.license"),
        photos_license=_license(licenses["photos"], "generate.license"),
        vgg_license=" (K. Simonyan and A. Zisserman, University of Oxford, CC BY 4.0)" if bundled else "",
    )


def _photos_taught(counts: Mapping[str, int]) -> str:
    """What a snapshot holds to train on."""
    pairs = f"{_count(counts['ok'], 'pair')} of a photo and its `X`"
    alone = counts.get("unpaired", 0)
    return f"{pairs} and {_count(alone, 'photo')} without one" if alone else pairs


def _title(image: str) -> str:
    return image.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ")


def _verdict(evaluation: Evaluation) -> str:
    """R in words, where it was measured, and what the model is worth."""
    worth = evaluation["verdict"]
    words = f"{evaluation['ratios']['verdict']}; {worth}" if "ratios" in evaluation else worth
    return words[:1].upper() + words[1:]


def _table(scores: Evaluation | Enlarged) -> str:
    lines = [f"| | {' | '.join(_PARTS.values())} |", f"| --- |{' ---: |' * len(_PARTS)}"]
    for picture, name in _PICTURES.items():
        if picture in scores:
            values = (_number(scores[picture][part]) for part in _PARTS)
            lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _larger(scores: Enlarged | None) -> str:
    """The paragraph on twice the size, if photos were scored there; the dataset has no `X` of that size."""
    if not scores or not scores.get("photos"):
        return ""
    made = f"`X` is the photo after {_count(len(scores['curve']) - 1, 'iteration')} here"
    head = f"At {scores['size']} px, {_count(scores['photos'], 'photo')}: {scores['verdict']}; {made}."
    return f"\n{head}\n\n{_table(scores)}\n\n"


def _objective(loss: LossSettings) -> str:
    return " + ".join(f"{loss[key]:g} x {name}" for key, name in _TERMS.items() if loss[key])


def _license(given: str, key: str) -> str:
    if given == "unknown":
        return f"unknown: the recipe does not say (`{key}`)"
    return f"{' '.join(given.split())}, as the recipe says (`{key}`)"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
