"""Do pairs pay? Trains the same network in several ways for the same time; see docs/ablation.md.

python jobs/ablation.py --minutes 10 --photos 'photos/*.jpg' --styles painting.jpg
"""

import argparse
import json
import sys
from pathlib import Path

from batch_nst.errors import BatchNSTError
from batch_nst.pipelines.benchmark.ablation import ablate
from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.pipelines.benchmark.ablation_records import ACCOUNTS, Scale

SAMPLES = Path(__file__).parent / "samples"
STYLES = [str(SAMPLES / "styles" / f"{name}.jpg") for name in ("van_gogh_auvers", "great_wave")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=Scale.minutes, help="duration of each arm (default: %(default)g)")
    add("--photos", default=str(SAMPLES / "content"), help="folder or glob (default: the samples)")
    add("--styles", nargs="+", default=STYLES, metavar="FILE", help="style images (default: two samples)")
    add("--results", default="out/ablation.jsonl", help="file of measurements; those in it are not repeated")
    add("--output", default="out/ablation", help="folder for pairs, tables, plots and pictures")
    add(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=list(ARMS),
        metavar="ARM",
        help=f"which to run: {', '.join(ARMS)}",
    )
    add(
        "--pairs", nargs="+", choices=ACCOUNTS, default=list(ACCOUNTS), help="how their cost is accounted for"
    )
    add("--size", type=int, default=Scale.size, help="side of the pictures (default: %(default)d)")
    add(
        "--iterations",
        type=int,
        default=Scale.iterations,
        help="iterations for each pair (default: %(default)d)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto measures which is faster")
    options = parser.parse_args()
    for name, least in (("minutes", 1e-3), ("size", 32), ("iterations", 1)):
        if not getattr(options, name) >= least:
            parser.error(f"--{name}: given {getattr(options, name)}; allowed: {least} or more")
    return options


def main() -> int:
    options = parse()
    try:
        study = ablate(
            options.photos,
            options.styles,
            Scale(minutes=options.minutes, size=options.size, iterations=options.iterations),
            results=options.results,
            output=options.output,
            arms=options.arms,
            accounts=options.pairs,
            device=options.device,
            precision=options.precision,
        )
    except BatchNSTError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return error.exit_code
    print(Path(study.files[0]).read_text(), file=sys.stderr)
    print(json.dumps({"runs": len(study.runs), "files": study.files}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
