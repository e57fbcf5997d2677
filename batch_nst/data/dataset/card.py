"""The dataset's card, `dataset/README.md`: text for people, and keys for the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from batch_nst import __version__
from batch_nst.data.dataset.manifest import Manifest
from batch_nst.data.dataset.quality import Rule
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.storage.store import Store

CARD = "dataset/README.md"

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
"""The Hub's categories for the number of rows."""

_MEANING = {
    "ok": "pairs to train on",
    "held_out": "pairs held out from training",
    "unpaired": "photos without pairs, which are trained on too",
    "filtered": "pairs that training skips, see below",
    "rejected": "photos that cannot be used; no pictures",
    "failed": "photos that could not be read or optimised; no pictures",
    "forgotten": "photos that were forgotten on request; nothing is left of them",
    "pending": "not made yet; no rows",
    "gone": "made, but no longer in the input",
}

_RULES: dict[Rule, str] = {
    "barely_changed": "differs from its photo by less than {min_change} grey levels",
    "blew_up": "loss above {max_loss}, which is {max_deviation} deviations above the median",
}

_TEMPLATE = """\
---
{front}---

# Photos and their optimised images

Every photo `content` was optimised against one style image under the perceptual loss of Gatys et al.; the
result is `stylized`. Made by batch_nst {version}; this card is written whenever a snapshot is sealed, now
snapshot {number} (digest `{digest}`).

| images | | |
| --- | ---: | --- |
{counts}

Total loss of the pairs, before the quality filter: {losses}.

## Use

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files="data/**/*.parquet", split="train")  # from this folder
pairs = rows.filter(lambda row: row["status"] == "ok" and row["split"] == "train")
```

A hash of a photo's name decides its `split`: `train`, `held_out`, or `unpaired`, a photo without `stylized`.
A row is a photo, or a crop of one: `id`, `uri`, `split`, `status`, `reason`, `detail`, the pictures `content`
and `stylized`, `height`, `width`, `content_loss`, `style_loss`, `total_loss`, `iterations`, `init`, `engine`.
An image that was tried again has a row for each attempt; the last one counts. What is left out is named in
`snapshots/{number:06}.json`.

## Quality filter

{filtered}

## Settings

The style image has the SHA-256 `{style}`.
Held out are {fraction:.1%} of the photos by hash, and {named} by name.

```yaml
{settings}```

## Licence

{licence}
"""


def write_card(store: Store, snapshot: Snapshot, settings: Manifest, licence: str | None = None) -> None:
    """Replace the card. Needs the lease.

    Args:
        store: the output.
        snapshot: the latest one.
        settings: those of the dataset.
        licence: the licence of the photos; None keeps what the card says.
    """
    text = card(snapshot, settings, licence or _licence_of(store))
    store.replace(CARD, text.encode())


def card(snapshot: Snapshot, settings: Manifest, licence: str) -> str:
    """The card as Markdown, with YAML at its top. It holds no names of photos."""
    rows = sum(count for name, count in snapshot.counts.items() if name != "pending")
    front = {
        "license": licence,
        "task_categories": ["image-to-image"],
        "tags": ["style-transfer", "neural-style-transfer"],
        "size_categories": [next((name for most, name in _SIZES if rows < most), "n>10M")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/**/*.parquet"}]}
        ],
    }
    holdout = settings["holdout"]
    return _TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False),
        version=__version__,
        number=snapshot.number,
        digest=snapshot.digest,
        counts="\n".join(
            f"| {name.replace('_', ' ')} | {snapshot.counts[name]:,} | {meaning} |"
            for name, meaning in _MEANING.items()
            if name in snapshot.counts
        ),
        losses=_losses(snapshot.quality.get("losses", {})),
        filtered=_filtered(snapshot),
        style=settings["style"]["sha256"],
        fraction=holdout["fraction"],
        named=len(holdout["photos"]) + len(holdout["at_least"]),
        settings=yaml.safe_dump({name: each for name, each in settings.items() if name != "holdout"}),
        licence="Unknown: the recipe does not say (`generate.license`)."
        if licence == "unknown"
        else f"`{licence}`, as the recipe says (`generate.license`).",
    )


def _losses(losses: Mapping[str, float]) -> str:
    if not losses:
        return "not known"
    shown = {name: _number(loss) for name, loss in losses.items()}
    return "median {median}, 90 % between {p5} and {p95}, all from {min} to {max}".format(**shown)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _filtered(snapshot: Snapshot) -> str:
    quality = snapshot.quality
    if not quality:
        return "None was applied."
    off = {"barely_changed": quality["min_change"] is None, "blew_up": quality["max_loss"] is None}
    shown = {**quality, "max_loss": _number(quality["max_loss"] or 0)}
    lines = [
        f"- `{rule}`: {'not applied' if off[rule] else text.format(**shown)}; "
        f"{len(quality['left_out'][rule]):,} left out"
        for rule, text in _RULES.items()
    ]
    head = (
        f"Of {quality['pairs']:,} pairs whose loss is known, training leaves out those that break a rule.\n"
        "Their rows are here unchanged; the snapshot lists them. The rules do not apply to held-out pairs.\n"
    )
    return "\n".join([head, *lines])


def _licence_of(store: Store) -> str:
    try:
        found = re.search(r"^license: (\S+)$", store.read(CARD).decode(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    return found[1] if found else "unknown"
