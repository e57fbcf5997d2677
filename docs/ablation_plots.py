"""Draws the curves on the page about pairs from the measurements beside it.

python docs/ablation_plots.py
"""

import json
from pathlib import Path

from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.pipelines.benchmark.ablation_records import References, Run, Scale, Study
from batch_nst.pipelines.benchmark.ablation_report import draw_curves

DOCS = Path(__file__).resolve().parent
PLOTS = {(96, 10): "ablation.svg", (96, 20): "ablation_20.svg", (128, 10): "ablation_128.svg"}
"""Names of the plots, by side of the pictures in px and minutes of an arm."""


def main() -> None:
    """Draw all of them."""
    lines = [json.loads(line) for line in (DOCS / "ablation.jsonl").read_text().splitlines()]
    for (size, minutes), name in PLOTS.items():
        references: dict[str, References] = {}
        found: dict[tuple[str, str], Run] = {}
        for line in lines:
            value, (style, arm, *_) = line["value"], line["name"].split()
            if line["machine"]["size"] != size:
                continue
            if "X" in value:
                references[style] = value
            elif round(value["curve"][-1]["seconds"] / 60) == minutes:
                title, photos = ARMS[arm].title, ARMS[arm].photos or 0
                found[style, arm] = Run(style, arm, title, "counted", photos, 0, 0.0, 0.0, value, None)
        runs = [run for _, run in sorted(found.items(), key=lambda each: list(ARMS).index(each[0][1]))]
        drawn = {style: each for style, each in references.items() if any(run.style == style for run in runs)}
        scale = Scale(minutes=minutes, size=size)
        study = Study(scale, lines[0]["machine"], "", 0, 0, drawn, runs, [])
        draw_curves(study, "counted", DOCS / name)


if __name__ == "__main__":
    main()
