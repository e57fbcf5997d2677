"""The pages are a site: each has its place in it, no link is dead, and it asks no other host for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT


@pytest.mark.slow
def test_it_is_built_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    words = ["build", "--strict", "--config-file", ROOT / ".mkdocs.yml", "--site-dir", tmp_path]
    built = subprocess.run([sys.executable, "-m", "mkdocs", *words], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = {path.stem for path in tmp_path.glob("*.html")}
    assert pages >= {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "security", "changelog"}
    for path in tmp_path.glob("*.html"):
        text = path.read_text()
        assert re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//", text) == []
        assert re.findall(r"<link[^>]* rel=\"?stylesheet\"?[^>]*href=\"?https?:", text) == []
    reference = (tmp_path / "python.html").read_text()
    assert "uint8 (size, size, 3)" in reference
