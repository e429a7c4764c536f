"""The README's picture: in a short run no call fails, and the drawing is well-formed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent


def test_the_picture_can_be_drawn_and_no_call_fails(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    command = [sys.executable, "-m", "loadtest.picture", "--seconds", "2", "--rate", "5", "--output", str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("of 10 calls") == done.stdout.count("none failed") == 2
    drawn = ElementTree.parse(picture).getroot()
    texts = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "A is frozen" in texts
    assert sum("of 10 calls" in text for text in texts) == 2
