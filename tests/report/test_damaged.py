"""Run directories that are not as they should be: the page opens, says what it left out, and runs nothing of theirs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from nrm_keras.report import page
from tests import programs
from tests.report.browsing import needs_chromium

pytestmark = needs_chromium

HACK = "window.hacked = 1; alert(1)"
ATTACK = (
    f"</script></title><script>{HACK}</script><img src=x onerror='{HACK}'><svg onload='{HACK}'></svg>"
    f'<a href="javascript:{HACK}">a</a>{{{{ 7 * 7 }}}}%{{y}}'
)
# plotly makes links of its own in drawings, whose targets no selector of CSS finds
LINKS_TO_SCRIPT = """
() => [...document.querySelectorAll("*")].flatMap(one => [...one.attributes])
  .filter(({ name, value }) => name.endsWith("href") && /^\\s*javascript:/i.test(value)).map(({ value }) => value)
"""
RUBBISH = bytes(range(256)) * 4
RECORDS = ("statistics.jsonl", "alerts.jsonl")
# JSON, but none of what a record may be
NO_RECORDS = [
    *("7", "[1, 2]", "null", '"text"', "{}", '{"kind": "unknown", "step": 1, "layer": "stem"}', "[" * 100_000),
    '{"kind": "activation", "step": "one", "layer": 3, "mean": "much", "variance": {}, "p50": [1]}',
    '{"kind": "gate", "step": 1e400, "layer": null, "lam": true}',
    '{"kind": ["drift"], "step": -1, "layer": {"a": 1}}',
    '{"rule": 5, "step": [], "layer": 7, "value": "high", "evidence": null, "others": "many"}',
    '{"kind": "activation", "step": 1, "layer": "' + "long" * 500_000 + '"}',
]


@pytest.fixture
def run(real_run, tmp_path) -> Path:
    """A copy of a real run, to be damaged."""
    copy = tmp_path / "runs/images/digits_adaptive/20261127-090000-000000"
    shutil.copytree(real_run, copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "report.html"))
    assert all((copy / name).stat().st_size for name in RECORDS)
    return copy


def remove(run: Path) -> None:
    for name in ("environment.json", "metrics.csv"):
        (run / name).unlink()


def tear_metrics(run: Path) -> None:
    content = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(content[: len(content) - 25])


def spoil_metrics(run: Path) -> None:
    """Numbers that are not finite in one row, rubbish for another, too few cells in a third."""
    header, *rows = (run / "metrics.csv").read_bytes().splitlines()
    columns = header.count(b",")
    spoilt = [b"3" + columns * b",nan", RUBBISH, b"2,1", b"4" + columns * b",-inf"]
    (run / "metrics.csv").write_bytes(b"\n".join([header, *rows, *spoilt, b""]))


def tear_records(run: Path) -> None:
    for name in RECORDS:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content + content.splitlines()[-1][:40])


def spoil_numbers(run: Path) -> None:
    """What json.dumps writes for numbers that are not finite, which are no JSON, and a number beyond the floats."""
    for name in RECORDS:
        lines = (run / name).read_text().splitlines(True)
        tokens = ("NaN", "Infinity", "-Infinity", "1e999")
        # the step stays what it is: without one there is no record
        spoilt = [re.sub(r'(?<!"step"): -?[\d.]+(?=[,}])', f": {token}", line) for line in lines for token in tokens]
        (run / name).write_text("".join([*lines, *spoilt]))


def put_rubbish_between(run: Path) -> None:
    for name in RECORDS:
        lines = (run / name).read_bytes().splitlines(True)
        middle = len(lines) // 2
        (run / name).write_bytes(b"".join([*lines[:middle], RUBBISH, b"\n", *lines[middle:]]))


def put_other_json_between(run: Path) -> None:
    for name in RECORDS:
        lines = (run / name).read_text().splitlines()
        middle = len(lines) // 2
        # one record of each kind, with something else in place of all that it says
        records = {record.get("kind"): record for record in map(json.loads, lines)}.values()
        others = [
            json.dumps({key: value if key in ("step", "kind") else other for key, value in record.items()})
            for record in records
            for other in ("much", 7, None, True, [1, [2]], {"a": 1}, -1e300)
        ]
        (run / name).write_text("\n".join([*lines[:middle], *NO_RECORDS, *others, *lines[middle:], ""]))


def age(run: Path) -> None:
    content = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**content, "version": 99}))


def smuggle(run: Path) -> None:
    """Script wherever a name or a sentence comes from the user."""
    summary = json.loads((run / "summary.json").read_text())
    named = {"title": ATTACK, "recipe": ATTACK, "classes": [ATTACK] * 10, "status": ATTACK, "precision": ATTACK}
    (run / "summary.json").write_text(json.dumps(summary | named))
    (run / "environment.json").write_text(json.dumps({ATTACK: {ATTACK: ATTACK}}))
    (run / "command.txt").write_text(ATTACK)
    (run / "recipe.yaml").write_text(f"title: {json.dumps(ATTACK)}  # {ATTACK}:1\n{json.dumps(ATTACK)}: 1\n")
    # a quotation mark would end a field of CSV
    rename = ATTACK.replace('"', "'").replace(",", "")
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text().replace("accuracy", rename))
    for name in RECORDS:
        records = [json.loads(line) for line in (run / name).read_text().splitlines()]
        for record in records:
            layer = f"{record['layer']}{ATTACK}" if record.get("layer") else ATTACK
            words = {key: ATTACK for key in ("rule", "evidence", "reason", "advice", "type") if key in record}
            record.update(words, layer=layer, **({"others": [ATTACK]} if "others" in record else {}))
        (run / name).write_text("".join(json.dumps(record) + "\n" for record in records))


# what is done to the run, and what its notices must name
DAMAGES = [
    (remove, ["environment.json", "metrics.csv"]),
    (tear_metrics, []),  # a row that is not whole is usual while a run trains
    (spoil_metrics, ["not finite"]),
    (tear_records, []),
    (spoil_numbers, []),
    (put_rubbish_between, ["alerts.jsonl", "statistics.jsonl"]),
    (put_other_json_between, ["alerts.jsonl", "statistics.jsonl"]),
    (age, ["version 99"]),
]


def assert_not_hacked(seen) -> None:
    """That a dialog came up is noise, which `visit` hears."""
    assert seen.page.evaluate("() => typeof window.hacked") == "undefined"
    assert seen.page.evaluate(LINKS_TO_SCRIPT) == []


@pytest.mark.parametrize(("damage", "told"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_the_page_opens_and_says_what_it_left_out(run, visit, damage, told):
    damage(run)
    seen = visit(page.write(run))
    assert seen.page.locator("h1").is_visible() and seen.page.locator(".verdict").is_visible()
    seen.open_everything()
    assert_not_hacked(seen)
    notices = seen.page.locator(".notices").all()
    words = " ".join(notice.inner_text() for notice in notices)
    assert [word for word in told if word not in words] == [] and all(notice.is_visible() for notice in notices)


def test_names_with_markup_are_shown_as_they_are(run, visit):
    smuggle(run)
    seen = visit(page.write(run))
    seen.open_everything()
    for chart in seen.page.locator(".chart").all():
        assert seen.hover(chart)  # its words are markup to plotly
    assert_not_hacked(seen)
    assert seen.page.locator("h1").inner_text() == ATTACK and seen.page.title().startswith(ATTACK)
    assert seen.page.locator("main img:not(.pictures img), main svg[onload], main script:not([type])").count() == 0


def test_the_command_writes_the_page_of_a_run_with_every_damage(run):
    # rubbish comes last, as it is no text any more
    for damage in (age, spoil_metrics, spoil_numbers, put_other_json_between, tear_records, put_rubbish_between):
        damage(run)
    (run / "environment.json").write_bytes(RUBBISH)
    printed = programs.python("-m", "nrm_keras", "report", str(run))
    assert str(run / "report.html") in printed and (run / "report.html").stat().st_size > 1_000_000
