"""The tables of a page as plain rows: results, epochs, recipe, environment."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nrm_keras.report.reading import RunFiles, Summary
from nrm_keras.report.verdict import label, number, percent, score

SPLITS = ("train", "validation", "test")
SHOWN_EPOCHS = 200

ENTRY = re.compile(r"(?P<indent>\s*(?:- )*)(?P<key>[^\s:#'\"\[{][^:#]*):(?P<value>\s.*|)$")


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class RecipeLine:
    """A line of `recipe.yaml` in parts; `kind` of origin: "command", "file", "default", or empty."""

    indent: str
    key: str
    value: str
    origin: str
    kind: str


def results(summary: Summary | None) -> Table | None:
    """Splits downwards, metrics across, the test split's shares of examples with their 95 % intervals."""
    measured = [split for split in SPLITS if summary and summary.metrics.get(split)]
    if not measured:
        return None
    names = list(dict.fromkeys(name for split in measured for name in summary.metrics[split]))
    rows = [
        [split, _count(summary.examples.get(split)), *(_cell(summary, split, name) for name in names)]
        for split in measured
    ]
    shares = any(cell.endswith(")") for cell in rows[-1])
    note = "In parentheses the 95 % confidence interval in percent" if shares else ""
    return Table(["split", "examples", *map(label, names)], rows, note)


def _count(examples: int | None) -> str:
    return "" if examples is None else f"{examples:,}"


def _cell(summary: Summary, split: str, name: str) -> str:
    found = score(summary, split, name)
    if found is None or not found.is_share:
        return number(summary.metrics[split].get(name))
    # training chose the weights and validation the epoch: only test examples are a fair sample of new ones
    return percent(found.value) if split != "test" else f"{percent(found.value)} ({interval_words(found.interval)})"


def interval_words(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def epochs(run: RunFiles) -> Table | None:
    """The numbers behind the curves; thinned where there are many, and saying so."""
    count = len(run.epochs)
    if not count:
        return None
    step = -(-count // SHOWN_EPOCHS)
    kept = [index for index in range(count) if index % step == 0 or index == count - 1]
    note = f"Every {step}th of {count} epochs and the last; metrics.csv has all." if step > 1 else ""
    columns = [name for name in run.metrics if name != "epoch"]
    rows = [[str(run.epochs[index]), *(number(run.metrics[name][index]) for name in columns)] for index in kept]
    return Table(["epoch", *map(label, columns)], rows, note)


def recipe_lines(text: str) -> list[RecipeLine]:
    return [_recipe_line(line) for line in text.rstrip().splitlines()]


def _recipe_line(line: str) -> RecipeLine:
    content, _, origin = line.rpartition("  # ")
    # lines that open a section have no origin; a quotation mark ends a value, never an origin
    if not content.strip() or line.endswith((":", "'", '"')):
        content, origin = line, ""
    kind = {"": "", "default": "default", "command line": "command"}.get(origin, "file")
    entry = ENTRY.match(content.rstrip())
    if entry is None:
        return RecipeLine("", "", content.rstrip(), origin, kind)
    return RecipeLine(entry["indent"], entry["key"], entry["value"], origin, kind)


def environment(content: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (name, value) rows. The diff, which is long, is not among them."""
    groups = []
    for group, value in content.items():
        rows = [(_name(group, name), words) for name, words in _flat(value, "") if words and name != "diff"]
        if rows:
            groups.append((group.replace("_", " "), rows))
    return groups


def _name(group: str, name: str) -> str:
    # these are names of others, which one may want to copy
    return name if group in {"versions", "variables"} else name.replace("_", " ").replace(" gib", " (GiB)")


def _flat(value, name: str, depth: int = 0) -> list[tuple[str, str]]:
    """One row a leaf; mappings deeper than three levels stay in one row."""
    if not isinstance(value, dict) or depth > 3:
        return [(name, _words(value))]
    return [row for key, one in value.items() for row in _flat(one, f"{name} {key}".strip(), depth + 1)]


def _words(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(_words(one) for one in value)
    if isinstance(value, dict):
        speak_for_themselves = {"name", "type"}
        parts = {key: _words(one) for key, one in value.items()}
        return ", ".join(
            one if key in speak_for_themselves else f"{_name('', key)} {one}" for key, one in parts.items()
        )
    return "" if value is None else str(value)
