"""How long the page of `export --page` takes to paint a photo, in a headless Chromium on this machine.

The network has random weights, which cost what trained ones do. Chromium paints in one thread. The painter of
`apply` is not measured here: `batch-nst benchmark` does that.

PYTHONPATH=. python tests/benchmarks/page.py --runtime node_modules/onnxruntime-web [--rounds N]
"""

import argparse
import os
import re
import shutil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from batch_nst.engine.fast_model.model_io import weights_of
from batch_nst.engine.fast_model.onnx_graph import onnx_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.timing import machine_of
from batch_nst.pipelines.reports.painter import PageModel, page_place, write_page
from batch_nst.recipe import NETWORKS
from tests.support import browser as chromium
from tests.support.places import SAMPLES
from tests.support.static_site import static_site

SHAPES = [(800, 625), (1250, 800), (1600, 1250)]


def main() -> None:
    """Prints a line for each network and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="node_modules/onnxruntime-web")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "no Chromium on the path"
    machine = machine_of(torch.device("cpu"), 0)["processor"]
    print(f"{machine}, {os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}", flush=True)
    with TemporaryDirectory() as made:
        folder = Path(made)
        for shape in SHAPES:
            with Image.open(SAMPLES / "content" / "coffee.jpg") as image:
                image.resize(shape).save(folder / f"{shape[0]}.png")
        for network in NETWORKS:
            page = folder / network
            place = page_place(str(page), options.runtime)
            assert place
            graph = onnx_bytes(weights_of(TransformerNet(32, network).eval()), network)
            write_page(place, [PageModel(network, {"version": "none"}, graph)])  # type: ignore[typeddict-item]
            with static_site(page) as address, chromium.start(program, folder / f"of-{network}") as browser:
                for shape in SHAPES:
                    measure(browser, address, folder / f"{shape[0]}.png", network, options.rounds)


def measure(browser: chromium.Browser, address: str, photo: Path, network: str, rounds: int) -> None:
    """Paint a photo several times, and print the median."""
    status = "document.querySelector('#status').textContent"
    browser.look(address, 1280)
    browser.value("(most.value = '2000000', 0)")
    took: list[float] = []
    painted = ""
    for _ in range(rounds):
        browser.value("(document.querySelector('#status').textContent = '', 0)")
        browser.choose("#file", photo)
        browser.until(f"{status}.startsWith('Painted') || {status}.includes('could not')", 600)
        told = browser.value(status)
        found = re.match(r"Painted (\d+ x \d+) pixels in ([\d.]+) seconds", told)
        assert found, told
        painted = found[1]
        took.append(float(found[2]))
    print(f"{network} {painted}: {median(took):g} s ({', '.join(map(str, took))})", flush=True)


if __name__ == "__main__":
    main()
