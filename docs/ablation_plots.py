"""Draws the curves on the pages about pairs from the measurements beside it.

python docs/ablation_plots.py
"""

import json
from collections import defaultdict
from pathlib import Path

from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.pipelines.benchmark.ablation_records import References, Run, Scale, Study
from batch_nst.pipelines.benchmark.ablation_report import draw_curves

DOCS = Path(__file__).resolve().parent
PLOTS = {
    (96, 10): "ablation.svg",
    (96, 20): "ablation_20.svg",
    (128, 10): "ablation_128.svg",
    (128, 20): "ablation_128_20.svg",
}
"""Names of the plots, by side of the pictures in px and minutes of an arm."""


def main() -> None:
    """Draw all of them."""
    lines = [json.loads(line) for line in (DOCS / "ablation.jsonl").read_text().splitlines()]
    best: dict[str, References] = {}
    drawn: dict[tuple[int, int], dict[str, References]] = defaultdict(dict)
    runs: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for line in lines:
        value, (style, arm, *_) = line["value"], line["name"].split()
        of_all_arms = f"{style} {line['machine']}"
        if "X" in value:
            best[of_all_arms] = value
            continue
        key = line["machine"]["size"], round(value["curve"][-1]["seconds"] / 60)
        drawn[key][style] = best[of_all_arms]
        runs[key].append(
            Run(style, arm, ARMS[arm].title, "counted", ARMS[arm].photos or 0, 0, 0.0, 0.0, value, None)
        )
    for (size, minutes), name in PLOTS.items():
        arms = sorted(runs[size, minutes], key=lambda run: list(ARMS).index(run.arm))
        scale = Scale(minutes=minutes, size=size)
        study = Study(scale, lines[0]["machine"], "", 0, 0, drawn[size, minutes], arms, [])
        draw_curves(study, "counted", DOCS / name)


if __name__ == "__main__":
    main()
