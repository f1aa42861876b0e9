"""The verb `compare`, as a user calls it."""

import os
import pty
import subprocess
import sys
import webbrowser

import pytest

from nrm_keras import cli
from tests.programs import ROOT
from tests.report.test_comparison import BATCH
from tests.report.watched import change, records, write


@pytest.fixture
def runs(tmp_path):
    seen = records(layers=["x\x1b[2J", "y"])
    other = change(seen, 36, "x\x1b[2J", "mean", 2.0)
    return [
        str(write(tmp_path / name, found, recipe=text))
        for name, found, text in (("a", seen, BATCH), ("b", other, BATCH + "title2: t\n"))
    ]


def verb(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "nrm_keras", *arguments], check=False, env=environment, text=True, **options
    )


def test_in_a_pipe_it_is_plain_and_whole(runs, tmp_path):
    done = verb("compare", *runs, cwd=tmp_path, capture_output=True)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "") and "\x1b" not in done.stdout
    assert {"Results", "Recipes", "Environments", "Where they part", "Layers"} <= set(lines)
    assert [line.split() for line in lines if line.startswith("title2")] == [["title2", "(absent)", "t"]]
    assert any(line.startswith("B parts from A at step 36") for line in lines) and r"x\x1b[2J" in done.stdout
    # text only, until a page is asked for
    assert not list(tmp_path.glob("*.html"))


def test_on_a_terminal_it_fits(runs):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nrm_keras", "compare", *runs],
        stdout=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "60"},
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 1 << 16):
            shown += piece
    except OSError:  # the end, on Linux
        pass
    os.close(master)
    text = shown.decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert process.wait(timeout=60) == 0
    assert "\x1b[2J" not in text and "Where they part" in text
    assert max(map(len, text.splitlines())) <= 60


def test_the_page_is_written_where_one_says_and_opened(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cli.main(["compare", *runs, "--html", "x.html"]) == 0
    assert (tmp_path / "x.html").exists() and opened == []
    assert cli.main(["compare", runs[0], "--open", runs[1]]) == 0
    assert opened == [(tmp_path / "compare.html").as_uri()]
    assert capsys.readouterr().out.splitlines()[-1] == "compare.html"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nowhere"], "nowhere: not a run directory. Received: no such directory."),
        (["a", "a/summary.json"], "a/summary.json: not a run directory. Received: a file."),
        (["a"], "two or more run directories. Received: 1."),
        (["a", "b", "--paired"], "none in common"),
        (["a", "b", "--html", "none/x.html"], "none/x.html: a comparison is written"),
    ],
)
def test_mistakes_exit_with_2_and_no_traceback(runs, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "--paired" in arguments:
        (tmp_path / "b" / "summary.json").unlink()
    assert cli.main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
