"""The page in a real browser, from disk."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from nrm_keras.report import page
from tests.report.conftest import HEADER, SUMMARY, metric_rows
from tests.report.test_page import ATTACK

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    "--virtual-time-budget=3000",
]


class Drawn(HTMLParser):
    """What plotly drew; lenient, as browsers write void elements of SVG and HTML alike."""

    def __init__(self, text: str):
        super().__init__()
        self.lines, self.marks, self.title, self._in_title = [], 0, "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        self._in_title = tag == "title" and not self.title
        # the legend's samples are lines too, drawn with h
        if tag == "path" and "js-line" in classes and "h" not in attributes["d"]:
            self.lines.append(attributes["d"])
        self.marks += tag == "text" and "annotation-text" in classes

    def handle_data(self, data):
        self.title += data if self._in_title else ""

    def handle_endtag(self, tag):
        self._in_title = False


def visit(path, tmp_path) -> tuple[str, list[str]]:
    """The page's elements after its scripts ran, and what the console said."""
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_console_is_heard(tmp_path):
    noisy = tmp_path / "noisy.html"
    noisy.write_text("<title>x</title><script>undefinedFunction()</script>")
    assert visit(noisy, tmp_path)[1]


def test_plotly_draws_every_curve_and_nothing_else_runs(make_run, tmp_path):
    header = HEADER.replace("accuracy", ATTACK)
    run = make_run(metric_rows(15), header=header, summary={**SUMMARY, "title": ATTACK})
    elements, console = visit(page.write(run), tmp_path)
    drawn = Drawn(elements)
    assert console == []
    assert len(drawn.lines) == 5 and all(line.count("L") > 5 for line in drawn.lines)
    assert drawn.marks == 2  # the best epoch, on both metrics
    assert ATTACK in drawn.title and drawn.title != "hacked"
