"""`RESULTS.md`: what recipes reached and what became of studies' claims, a row each, from their directories alone."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe.loading import PATHS, Loaded, load
from nrm_keras.recipe.nodes import dotted, leaves
from nrm_keras.recipe.problems import RecipeError, printable, shown
from nrm_keras.recipe.writing import dump, values_of
from nrm_keras.report import studies
from nrm_keras.report.reading import RunFiles, read_run
from nrm_keras.report.seeds import summary_of
from nrm_keras.report.verdict import baseline, duration, label, main_metric, number
from nrm_keras.runs import directory

FILE = "RESULTS.md"
ROOTS = ("runs", "studies")
COLUMNS = (
    *("recipe", "data", "norm", "seeds", "metric", "mean ± deviation", "baseline", "epochs", "time a run"),
    *("machine", "commit", "TensorFlow", "Keras"),
)
UNFINISHED, DAMAGED, SMOKE, REPEATED = "unfinished", "damaged", "smoke test", "repeated"
LEFT_OUT = {
    UNFINISHED: ("unfinished run", "unfinished runs"),
    DAMAGED: ("damaged run", "damaged runs"),
    SMOKE: ("smoke test", "smoke tests"),
    REPEATED: ("run of a seed that was run again later", "runs of seeds that were run again later"),
    studies.DAMAGED: ("damaged study", "damaged studies"),
    studies.SMOKE: ("smoke test of a study", "smoke tests of studies"),
}
# where a changed value comes from, as `recipe.yaml` says it: the command line, or `nrm_keras.run`
CHANGED = ("  # command line", "  # overrides")
# backslashes keep these from being Markdown or HTML; an underscore within a word is none
SPECIAL = re.compile(r"[\\`*\[\]<>|~&#!$]|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True)
class Result:
    """One finished run."""

    files: RunFiles
    loaded: Loaded

    @property
    def seed(self) -> int:
        return self.loaded.recipe.train.seed

    @property
    def experiment(self) -> tuple[str, str]:
        """What the runs of a row have in common: the resolved recipe but for the seed, and the content of the data.

        In a cross-validation by seeds the splits differ from seed to seed.
        """
        recipe = self.loaded.recipe
        same = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 0})})
        if getattr(recipe.data, "fold", 0) is None:
            return dump(same), ""
        return dump(same), str(_mapping(self.files.environment, "data").get("fingerprint", ""))

    @property
    def label(self) -> str:
        """The recipe's name and what was changed in it when the run was started."""
        lines = self.files.recipe.split("\n")
        values = {dotted(path): value for path, value in leaves(values_of(self.loaded.recipe))}
        changed = {
            path: values[path]
            for path, origin in self.loaded.origins.items()
            if origin != "default" and lines[int(origin.rpartition(":")[2]) - 1].endswith(CHANGED)
        }
        changed.pop("train.seed", None)
        return " ".join([self.files.summary.recipe, *(f"{path}={_value(path, one)}" for path, one in changed.items())])


def write(roots: Sequence[Path], out: Path) -> str:
    """Writes the file, and says so in a sentence.

    Args:
        roots: directories below which runs and studies are; none: those of `ROOTS` that are here.
        out: the file.

    Raises:
        UserError: one of `roots` is no directory, or the file cannot be written.
    """
    roots = list(roots) or [path for path in map(Path, ROOTS) if path.is_dir()] or [Path(ROOTS[0])]
    found, left_out = collect(roots)
    claims, no_claims = studies.rows(studies.find_all(roots))
    left_out += no_claims
    options = [*map(str, roots), *(["--out", str(out)] if str(out) != FILE else [])]
    command = shlex.join([*PROGRAM.split(), "results", *options])
    text = render(found, left_out, command, claims)
    try:
        directory.write_text(out, text)
    except OSError as error:
        raise UserError(
            f"{out}: results are written to a file, in a directory that exists. Received: {error.strerror}. Choose another with --out FILE."
        ) from error
    about = f"{_counted(len(_groups(found)), 'recipe')} from {_counted(len(found), 'run')}"
    told = f"; {_counted(len(claims), 'claim')} of studies" if claims else ""
    return f"{out}: {about}{told}. {_left_out(left_out)}".strip()


def collect(roots: Sequence[Path]) -> tuple[list[Result], Counter]:
    """The newest finished run of every seed of every recipe, oldest first, and how many runs were left out and why.

    The cells of studies are not among them.

    Raises:
        UserError: one of `roots` is no directory.
    """
    paths: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(
                f"{root}: no such directory. Runs are made in `runs`, or where `run --out` says: {PROGRAM} results DIR."
            )
        paths.update({path.resolve(): path for path in directory.find_all(root)})
    of_studies = [path.resolve() for path in studies.find_all(roots)]
    paths = {path: one for path, one in paths.items() if not any(map(path.is_relative_to, of_studies))}
    left_out: Counter = Counter()
    newest: dict[tuple, Result] = {}
    for path in sorted(paths.values(), key=lambda path: (path.name, str(path))):
        result = _read(path)
        if isinstance(result, str):
            left_out[result] += 1
            continue
        key = (result.experiment, result.seed)
        left_out[REPEATED] += key in newest
        newest[key] = result
    return list(newest.values()), left_out


def render(
    found: Sequence[Result],
    left_out: Counter,
    command: str,
    claims: Sequence[Sequence[str]] = (),
) -> str:
    """The file as text.

    Args:
        found, left_out: see `collect`.
        command: that wrote it.
        claims: see `studies.rows`.
    """
    rows = sorted(_row(group) for group in _groups(found))
    sections = [
        "# Results",
        "Written from run directories and studies' directories by this command, which overwrites what is edited here:",
        f"    {printable(command)}",
        _table(COLUMNS, rows) if rows else "There is no finished run.",
        "The deviation is the sample standard deviation over the seeds; one seed has none." if rows else "",
        _caveats(_groups(found)),
        *(["## Studies", studies.ABOUT, _table(studies.COLUMNS, claims)] if claims else []),
        _left_out(left_out),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown shows as it is, within one cell of a table."""
    return SPECIAL.sub(lambda found: f"\\{found[0]}", printable(text))


def _read(path: Path) -> Result | str:
    """The run, or why it is left out."""
    files = read_run(path, inside=False)
    if not files.finished:
        return UNFINISHED
    if files.summary is None or not files.environment:
        return DAMAGED
    if files.summary.smoke:
        return SMOKE
    try:
        return Result(files, load(path / directory.RECIPE))
    except RecipeError:
        return DAMAGED


def _groups(found: Iterable[Result]) -> list[list[Result]]:
    groups: dict[tuple, list[Result]] = {}
    for result in found:
        groups.setdefault(result.experiment, []).append(result)
    return [sorted(group, key=lambda result: result.seed) for group in groups.values()]


def _row(group: list[Result]) -> tuple[str, ...]:
    recipe = group[0].loaded.recipe
    return (
        _distinct(result.label for result in group),
        recipe.data.source,
        recipe.norm.type,
        ", ".join(str(result.seed) for result in group),
        *_metric(group),
        _baseline(group),
        _distinct(str(result.files.summary.epochs or "") for result in group),
        _time(group),
        _distinct(_machine(result.files.environment) for result in group),
        _distinct(_commit(result.files.environment) for result in group),
        *(
            _distinct(_mapping(result.files.environment, "versions").get(name, "") for result in group)
            for name in ("tensorflow", "keras")
        ),
    )


def _distinct(words: Iterable[str]) -> str:
    """What the runs of a row say, each once, in the order of their seeds."""
    return "; ".join(dict.fromkeys(filter(None, map(str, words)))) or "not recorded"


def _metric(group: list[Result]) -> tuple[str, str]:
    summaries = [result.files.summary for result in group]
    name = main_metric(summaries[0])
    split = "test" if summaries[0].metrics.get("test") else "validation"
    if name is None:
        return "none", "not measured"
    values = [summary.metrics.get(split, {}).get(name) for summary in summaries]
    spread = summary_of([math.nan if value is None else value for value in values])
    deviation = f" ± {number(spread.deviation)}" if spread.interval else ""
    return f"{split} {label(name)}", f"{number(spread.mean)}{deviation}"


def _baseline(group: list[Result]) -> str:
    """The mean of what stands beside the results; where folds are held out it differs from seed to seed."""
    found = [one for result in group if (one := baseline(result.files.summary))]
    if not found:
        return ""
    name, metric, _ = found[0]
    return f"{name}: {label(metric)} {number(statistics.fmean(value for *_, value in found))}"


def _caveats(groups: Iterable[list[Result]]) -> str:
    """What scores don't prove, once for all rows that it is about."""
    rows: dict[str, list[str]] = {}
    for group in groups:
        for caveat in dict.fromkeys(filter(None, (result.files.summary.caveat for result in group))):
            rows.setdefault(caveat, []).append(_distinct(result.label for result in group))
    return "\n".join(
        f"- {escape(', '.join(sorted(names)))}: {escape(caveat)}" for caveat, names in sorted(rows.items())
    )


def _time(group: list[Result]) -> str:
    seconds = [result.files.summary.seconds for result in group if result.files.summary.seconds is not None]
    return duration(statistics.fmean(seconds)) if seconds else "not recorded"


def _machine(environment: dict) -> str:
    machine = _mapping(environment, "machine")
    cores = machine.get("processors_usable") or machine.get("processors")
    devices = _mapping(environment, "tensorflow").get("devices")
    others = [one.get("name") for one in devices or () if isinstance(one, dict) and one.get("type") != "CPU"]
    parts = [machine.get("processor"), f"{cores} cores" if cores else "", *others]
    return ", ".join(str(part) for part in parts if part)


def _commit(environment: dict) -> str:
    git = _mapping(environment, "git")
    commit = str(git.get("commit") or "")
    return f"{commit[:10]} with uncommitted changes" if commit and git.get("dirty") else commit[:10]


def _mapping(content: dict, name: str) -> dict:
    """A part of a file that may hold anything."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _value(path: str, value) -> str:
    if path in map(dotted, PATHS) and isinstance(value, str):
        return Path(value).name  # the folders above it are nobody's business
    return value if isinstance(value, str) else shown(value)


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _left_out(left_out: Counter) -> str:
    parts = [_counted(left_out[kind], *words) for kind, words in LEFT_OUT.items() if left_out[kind]]
    return f"Left out: {', '.join(parts)}." if parts else ""
