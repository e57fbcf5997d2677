"""Where the checkout is, and what of it tests use."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "jobs" / "samples"
PAINTING = SAMPLES / "styles" / "great_wave.jpg"
