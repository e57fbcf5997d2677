"""The page of `export --page`: it paints photos in a browser, by graphs of models and the runtime of ONNX.

The folder is complete in itself and needs a web server, but none that sends headers of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import BaseModel, Field, ValidationError

import batch_nst
from batch_nst.console import log
from batch_nst.data.models.registry import ModelCard
from batch_nst.errors import RecipeError
from batch_nst.pipelines.reports.html import ENVIRONMENT
from batch_nst.uris import meant_by

_RUNTIME: Final = {
    "dist/ort.wasm.min.mjs": "onnxruntime/ort.wasm.min.js",
    "dist/ort-wasm-simd-threaded.mjs": "onnxruntime/ort-wasm-simd-threaded.js",
    "dist/ort-wasm-simd-threaded.wasm": "onnxruntime/ort-wasm-simd-threaded.wasm",
}
"""Files of the npm package, and their names in the page: some web servers do not know the suffix mjs."""
_LICENSES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_LEAST: Final = (1, 20)
"""The oldest version of onnxruntime-web that a page was tried with."""
_ALLOWED: Final = (
    f"the npm package onnxruntime-web, {_LEAST[0]}.{_LEAST[1]} or newer: "
    "`npm install onnxruntime-web`, then --runtime node_modules/onnxruntime-web"
)
_SAMPLE: Final = "samples/content/chelsea.jpg"
_GENERATOR: Final = '<meta name="generator" content="batch_nst'
"""Only pages of this command have it."""


class _Package(BaseModel):
    """The keys of `package.json` that are read."""

    name: str
    version: Annotated[str, Field(pattern=r"^\d{1,9}\.\d{1,9}")]
    license: str = ""


@dataclass(frozen=True)
class Runtime:
    """What runs the model in a browser."""

    version: str
    files: Mapping[str, bytes]
    """The bytes of each file, by its name in the page."""


@dataclass(frozen=True)
class PageModel:
    """A model that a page paints with."""

    title: str
    """The painting's name, as the page shows it."""
    card: ModelCard
    graph: bytes
    """The bytes of `model.onnx`."""
    file: str = "model.onnx"
    """Name of the graph in the page."""
    painting: bytes | None = None
    """A JPEG of the painting, which a page of several models shows; None: it is not in the page."""

    @property
    def picture(self) -> str:
        """Name of the painting in the page."""
        return PurePosixPath(self.file).with_suffix(".jpg").as_posix()

    @property
    def licenses(self) -> Mapping[str, object]:
        """What the recipe said of weights, style and photos."""
        return self.card.get("licenses") or dict.fromkeys(("weights", "style", "photos"), "unknown")

    @property
    def size(self) -> str:
        """Bytes of the graph, for people."""
        return f"{len(self.graph) / 1e6:.1f} MB"


@dataclass(frozen=True)
class PagePlace:
    """Where a page is to be written, and the runtime that belongs to it."""

    folder: Path
    runtime: Runtime


def page_place(page: str | None, runtime: str | None) -> PagePlace | None:
    """Check the options of `export` for a page; None where none is asked for.

    Args:
        page: a folder on this machine that is missing, empty, or has such a page.
        runtime: the folder of the npm package onnxruntime-web.

    Raises:
        RecipeError: one of them is missing or cannot be used.
    """
    if page is None and runtime is None:
        return None
    if page is None:
        raise RecipeError(f"--runtime {runtime}: is for a page; allowed: beside --page DIR")
    if runtime is None:
        raise RecipeError(f"--page {page}: needs --runtime FOLDER, {_ALLOWED}")
    return PagePlace(_folder(page), _read_runtime(runtime))


def _folder(page: str) -> Path:
    folder = Path(page)
    allowed = "allowed: a folder of this machine that is missing, empty or has such a page"
    if "://" in page or meant_by(page):
        raise RecipeError(f"--page {page}: is no path; {allowed}")
    there = folder if folder.exists() else next(each for each in folder.absolute().parents if each.exists())
    if not there.is_dir():
        raise RecipeError(f"--page {page}: {there} is a file; {allowed}")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise RecipeError(f"--page {page}: cannot be written; {allowed}")
    if there == folder and any(folder.iterdir()):
        index = folder / "index.html"
        if not index.is_file() or _GENERATOR.encode() not in index.read_bytes():
            raise RecipeError(f"--page {page}: holds other files; {allowed}")
    return folder


def _read_runtime(folder: str) -> Runtime:
    given = f"--runtime {folder}"
    try:
        package = _Package.model_validate_json((Path(folder) / "package.json").read_bytes())
    except OSError as error:
        raise RecipeError(f"{given}: package.json: {error.strerror}; allowed: {_ALLOWED}") from error
    except ValidationError as error:
        raise RecipeError(f"{given}: package.json names no package; allowed: {_ALLOWED}") from error
    if package.name != "onnxruntime-web":
        raise RecipeError(f"{given}: is the package {package.name}; allowed: {_ALLOWED}")
    major, minor = package.version.split(".")[:2]
    if (int(major), int(minor.split("-")[0])) < _LEAST:
        raise RecipeError(f"{given}: is version {package.version}; allowed: {_ALLOWED}")
    parts = {}
    for name, target in _RUNTIME.items():
        try:
            parts[target] = (Path(folder) / name).read_bytes()
        except OSError as error:
            raise RecipeError(f"{given}: {name}: {error.strerror}; allowed: {_ALLOWED}") from error
    parts["onnxruntime/LICENSE"] = _license(Path(folder), package, given)
    return Runtime(package.version, parts)


def _license(folder: Path, package: _Package, given: str) -> bytes:
    """The package's own licence; packages so far name it in `package.json` and lack the text."""
    for name in _LICENSES:
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    if package.license != "MIT":
        raise RecipeError(
            f"{given}: has the licence {package.license or 'unknown'} and no file LICENSE; allowed: MIT, or "
            "a package with that file"
        )
    return _mit("Copyright (c) Microsoft Corporation").encode()


def _mit(copyright_line: str) -> str:
    return ENVIRONMENT.get_template("mit.txt.j2").render(copyright=copyright_line)


def title_of(style_image: str) -> str:
    """The name of a painting, by its path or URI."""
    return PurePosixPath(style_image).stem.replace("_", " ")


def page_files(models: Sequence[PageModel], runtime: Runtime) -> dict[str, bytes]:
    """All files of a page by their names; `index.html` is the last.

    Args:
        models: what it paints with, one or more; the first is chosen when the page opens.
        runtime: what paints in the browser.
    """
    about = {
        "generator": f"batch_nst {batch_nst.__version__}",
        "models": models,
        "runtime": runtime.version,
        "ours": _mit("Copyright (c) 2026 the batch_nst authors"),
    }
    rendered = {"LICENSES.txt": "painter_licenses.txt.j2", "page.css": "painter.css.j2"}
    scripts = {"page.js": "painter.js", "worker.js": "painter_worker.js"}
    own = files("batch_nst")

    def render(template: str) -> bytes:
        return ENVIRONMENT.get_template(template).render(about).strip().encode() + b"\n"

    return {
        **{model.file: model.graph for model in models},
        **{model.picture: model.painting for model in models if model.painting},
        "sample.jpg": (own / _SAMPLE).read_bytes(),
        **runtime.files,
        **{name: render(template) for name, template in rendered.items()},
        **{
            name: (own / "pipelines/reports/templates" / script).read_bytes()
            for name, script in scripts.items()
        },
        "index.html": render("painter.html.j2"),
    }


def write_page(place: PagePlace, models: Sequence[PageModel]) -> Path:
    """Write the page of these models; files of an earlier one are replaced. Returns `index.html`.

    Raises:
        RecipeError: the folder cannot be written.
    """
    try:
        for name, data in page_files(models, place.runtime).items():
            target = place.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            part.write_bytes(data)
            part.replace(target)
    except OSError as error:
        raise RecipeError(f"--page {place.folder}: cannot be written: {error.strerror}") from error
    page = place.folder / "index.html"
    log(f"page: {page}; look at it with: python -m http.server --directory {place.folder}")
    return page
