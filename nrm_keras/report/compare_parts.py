"""What a comparison says, part by part, in sentences and tables: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nrm_keras.errors import UserError
from nrm_keras.report import layer_differences, parting, seeds, verdict
from nrm_keras.report.comparison import (
    SEED,
    Compared,
    Comparison,
    Going,
    environment_differences,
    recipe_differences,
    seeds_of,
)
from nrm_keras.report.statistics import Series
from nrm_keras.report.tables import Table, interval_words
from nrm_keras.report.verdict import label, number, percent

TOP = 15


@dataclass(frozen=True)
class Part:
    """A part of a comparison; of its table the terminal shows the first `top` rows."""

    name: str
    title: str
    sentences: list[str] = field(default_factory=list)
    table: Table | None = None
    top: int | None = None
    caption: str = ""

    @property
    def more(self) -> str:
        """What the terminal leaves out."""
        left = len(self.table.rows) - self.top if self.table and self.top else 0
        return f"{left:,} more rows are on the page (--html FILE)." if left > 0 else ""


def parts(comparison: Comparison, paired: bool = False) -> list[Part]:
    """All parts in the order in which they are shown.

    Args:
        comparison: see `comparison.read`.
        paired: add the difference of two recipes over the same seeds.

    Raises:
        UserError: `paired` without two recipes that have seeds in common.
    """
    return [
        _results(comparison),
        *([_paired(comparison)] if paired else []),
        _recipes(comparison),
        _environments(comparison),
        _partings(comparison),
        _layers(comparison),
    ]


def names(runs: Iterable[Compared]) -> str:
    return ", ".join(run.letter for run in runs)


def _results(comparison: Comparison) -> Part:
    rows = [
        [
            run.letter,
            "" if run.seed is None else str(run.seed),
            *_result(run),
            run.files.name,
        ]
        for run in comparison.runs
    ]
    seeds_only = [
        f"{names(group)} are one recipe with different seeds." for group in comparison.groups if _is_set(group)
    ]
    same = [
        f"{names(group)} have the same recipe and seed."
        for group in comparison.groups
        if len(group) > 1 and not _is_set(group)
    ]
    return Part(
        "results",
        "Results",
        [*seeds_only, *same],
        Table(["run", "seed", "status", "result", "epochs", "time", "directory"], rows),
        caption="In parentheses the 95 % confidence interval in percent, where the score is a share of examples",
    )


def _is_set(group: Sequence[Compared]) -> bool:
    return len(seeds_of(group)) > 1


def _result(run: Compared) -> list[str]:
    summary = run.files.summary
    if summary is None:
        return ["unreadable summary" if run.files.finished else "unfinished", "", f"{len(run.files.epochs)} so far", ""]
    split, name, score = verdict.main_score(summary)
    words = "none that is finite"
    if score:
        value = f"{percent(score.value)} ({interval_words(score.interval)})" if score.is_share else number(score.value)
        words = f"{split} {label(name)} {value}"
    status = f"{summary.status}, smoke test" if summary.smoke else summary.status
    time = verdict.duration(summary.seconds) if summary.seconds is not None else ""
    return [status, words, "" if summary.epochs is None else str(summary.epochs), time]


def _paired(comparison: Comparison) -> Part:
    groups = comparison.groups
    if len(groups) != 2:
        raise UserError(
            f"--paired compares two recipes over the same seeds. Received: {len(groups)} "
            f"{'recipe' if len(groups) == 1 else 'recipes'} ({'; '.join(map(names, groups))}). Name runs of two recipes that "
            f"differ in more than {SEED}."
        )
    by_seed = [{s: run for s, run in seeds_of(group).items() if run.files.summary} for group in groups]
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if not common:
        have = "; ".join(f"{names(group)}: {_listed(one)}" for group, one in zip(groups, by_seed, strict=True))
        raise UserError(
            f"--paired compares two recipes over the same seeds. Received: none in common among finished runs ({have}). "
            "Train both with the same seeds: run NAME --seeds 0,1,2."
        )
    pairs = [{seed: one[seed] for seed in common} for one in by_seed]
    found = [seeds.scores(names(one.values()), {s: run.files.path for s, run in one.items()}) for one in pairs]
    left_out = [
        run for group in groups for run in group if not any(run is one for pair in pairs for one in pair.values())
    ]
    sentences = [f"Seeds {_listed(common)}: the difference of each pair, their mean and its 95 % t interval."]
    if left_out:
        sentences.append(f"Without a partner that is finished, and left out: {names(left_out)}.")
    if found[0].split != found[1].split:
        sentences.append(f"{found[0].name} are measured on {found[0].split}, {found[1].name} on {found[1].split} data.")
    return Part(
        "paired",
        f"Paired difference on {found[0].split} data",
        sentences,
        seeds.difference_table(*found),
        caption="Means, and their paired difference",
    )


def _listed(values: Iterable) -> str:
    return ", ".join(map(str, values)) or "none"


def _recipes(comparison: Comparison) -> Part:
    readable = [run for run in comparison.runs if run.recipe is not None]
    unreadable = [run for run in comparison.runs if run.recipe is None]
    rows = [[key, *values] for key, values in recipe_differences(comparison)]
    sentences = [f"That of {names(unreadable)} cannot be read."] if unreadable else []
    if not rows:
        sentences.append("No difference." if len(readable) > 1 else "There are no two recipes to compare.")
    return Part("recipes", "Recipes", sentences, _differences("key", readable, rows), caption="Values that differ")


def _environments(comparison: Comparison) -> Part:
    missing = [run for run in comparison.runs if not run.files.environment]
    rows = [[name, *values] for name, values in environment_differences(comparison)]
    sentences = [f"That of {names(missing)} is not known."] if missing else []
    if not rows:
        sentences.append("No difference in versions, machine and code.")
    return Part(
        "environments",
        "Environments",
        sentences,
        _differences("fact", comparison.runs, rows),
        caption="Facts that differ",
    )


def _differences(what: str, runs: Sequence[Compared], rows: list[list[str]]) -> Table | None:
    return Table([what, *(run.letter for run in runs)], rows) if rows else None


def _partings(comparison: Comparison) -> Part:
    sentences = [_without_statistics(comparison)]
    goings = comparison.goings
    if goings and goings[0].has_band:
        reference = goings[0].reference
        sentences.append(
            f"The band of seed noise of a number is the mean and {parting.WIDTH} sample standard deviations to both sides over "
            f"{names(reference)} (seeds {_listed(run.seed for run in reference)}), at the same step and layer."
        )
    elif goings:
        sentences.append(
            f"No band of seed noise is known: it takes {parting.SEEDS} seeds of one recipe, and runs of another. So runs part where a number "
            f"first differs by more than {100 * parting.TOLERANCE:g} % (a mean by that part of its standard deviation, a share by {parting.TOLERANCE:g})."
        )
    sentences += [sentence for going in goings for sentence in _going(going)]
    return Part("parting", "Where they part", [sentence for sentence in sentences if sentence])


def _without_statistics(comparison: Comparison) -> str:
    missing = [run for run in comparison.runs if run not in comparison.watched]
    have = "has" if len(missing) == 1 else "have"
    return (
        f"{names(missing)} {have} no statistics of the layers; `diagnostics.every=50` records some." if missing else ""
    )


def _going(going: Going) -> list[str]:
    who, reference = names(going.others), names(going.reference)
    course = going.course
    if course.steps is None:
        return [f"{who} and {reference} have no recorded step in common."]
    count, start, end = course.steps
    if not course.compared:
        return [f"{who} and {reference} have no layer in common at the {count:,} steps that all have recorded."]
    found = course.parting
    if found is None:
        s = "s" if len(going.others) == 1 else ""
        within = f"the band of {reference}" if going.has_band else f"{100 * parting.TOLERANCE:g} % of {reference}"
        steps = f"all {count:,} steps" if count > 1 else "the only step"
        return [f"{who} stay{s} within {within} at {steps} that all have recorded ({_steps(start, end)})."]
    where = f" in {found.layer}" if found.layer else ""
    s = "s" if len(going.others) == 1 else ""
    how = f"leave{s} the band of {reference}" if going.has_band else f"part{s} from {reference}"
    sentence = (
        f"{who} {how} at step {found.step}{where}: {number_name(found.kind, found.column)} "
        f"{', '.join(map(number, found.others))} against {', '.join(map(number, found.reference))}."
    )
    share = found.outside / found.compared
    if going.has_band:
        by_chance = parting.chance(len(going.reference), len(going.others))
        more = (
            f"{percent(share)} of the {found.compared:,} numbers of that step are outside of the band, and {_range(going.shares)} of those "
            f"of all steps; where nothing but the seed differs it is about {100 * by_chance:.0f} %, so a single number says little."
        )
    else:
        more = f"{found.outside:,} of the {found.compared:,} numbers of that step differ."
    if going.others[0].setting and _same_recipe(going):
        more += " Their recipes differ in the seed at most."
    return [sentence, more]


def _steps(start: int, end: int) -> str:
    return f"{start} to {end}" if end > start else f"{start}"


def _range(shares: Series) -> str:
    low, high = min(shares.values, default=0), max(shares.values, default=0)
    return percent(low) if low == high else f"{percent(low)} to {percent(high)}"


def number_name(kind: str, column: str) -> str:
    """Such as `activation variance`, `loss`."""
    words = column.replace("_", " ")
    return words if kind == "step" else f"{kind} {words}"


def _same_recipe(going: Going) -> bool:
    settings = [run.setting for run in (*going.reference, *going.others)]
    return all(one == settings[0] for one in settings)


def _layers(comparison: Comparison) -> Part:
    watched = comparison.watched
    found = layer_differences.rows(comparison)
    rows = [
        [row.layer, row.quantity.name, *(number(row.values[run.letter]) for run in watched), row.words] for row in found
    ]
    if not rows:
        few = "It takes two runs with statistics." if len(watched) < 2 else "The runs have no layer in common."
        return Part("layers", "Layers", [few])
    step = layer_differences.last_step(comparison)
    at = f"At step {step}, the last that all have recorded" if step is not None else "At each run's own last step"
    means = (
        " The difference is between the means of the seeds." if len(comparison.groups) < len(comparison.runs) else ""
    )
    sentence = f"{at}; those that differ most come first; means by standard deviations (sd).{means if len(comparison.groups) > 1 else ''}"
    if not any(row.size for row in found):
        return Part("layers", "Layers", [f"{at}, all {len(rows):,} numbers of the layers are equal."])
    table = Table(["layer", "number", *(run.letter for run in watched), "difference"], rows)
    return Part("layers", "Layers", [sentence], table, TOP, "Numbers of the layers that all runs have")
