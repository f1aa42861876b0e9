"""The result of a run in sentences, and the numbers behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nrm_keras.report.reading import RunFiles, Summary

NOTABLE_GAP = 0.01


@dataclass(frozen=True)
class Score:
    """One metric of one split; `interval` is the 95 % interval where the metric is a share of examples."""

    name: str
    value: float
    examples: int | None = None
    interval: tuple[float, float] | None = None

    @property
    def is_share(self) -> bool:
        return self.interval is not None


def score(summary: Summary, split: str, name: str) -> Score | None:
    value = summary.metrics.get(split, {}).get(name)
    if value is None or not math.isfinite(value):
        return None
    examples = summary.examples.get(split)
    counts_examples = summary.task == "classification" and name.endswith("accuracy") and 0 <= value <= 1
    interval = wilson(value, examples) if counts_examples and examples else None
    return Score(name, value, examples, interval)


def wilson(share: float, examples: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of `examples` independent examples."""
    from scipy.stats import binomtest  # slow to import, and most uses of this package need none

    interval = binomtest(round(share * examples), examples).proportion_ci(method="wilson")
    return interval.low, interval.high


def main_metric(summary: Summary) -> str | None:
    """What the run is judged by: the monitored metric, else the first that is no loss, else the loss."""
    measured = summary.metrics.get("test") or summary.metrics.get("validation") or {}
    monitored = summary.monitor.removeprefix("val_")
    choices = [name for name in measured if name != "loss"]
    if monitored in choices:
        return monitored
    return (choices or list(measured) or [None])[0]


def main_score(summary: Summary) -> tuple[str, str, Score | None]:
    """Split, metric and score that the run is judged by: the test split's, else validation's; None without a finite one."""
    name = main_metric(summary)
    found = ((split, score(summary, split, name)) for split in ("test", "validation") if name)
    return next(((split, name, one) for split, one in found if one), ("", "", None))


def sentences(run: RunFiles) -> list[str]:
    """The verdict: result first, then how the weights were chosen, then what to be wary of."""
    if run.summary is None:
        return [sentence for sentence in (_unfinished(run), _found(run)) if sentence]
    summary = run.summary
    candidates = [_result(summary), _beside(summary), _found(run), _course(summary), _smoke(summary), _gap(summary)]
    candidates.append(summary.caveat)
    return [sentence for sentence in candidates if sentence]


def _unfinished(run: RunFiles) -> str:
    if run.finished:
        return f"The run has ended, but its summary cannot be read. {_recorded(run)}"
    return f"Still training, or interrupted: the run has written no summary yet. {_recorded(run)}"


def _recorded(run: RunFiles) -> str:
    train = run.planned.get("train")
    total = train.get("epochs") if isinstance(train, dict) else None
    of_all = f" of {total}" if isinstance(total, int) else ""
    if not run.epochs:
        return f"No epoch{of_all} is recorded so far; the run began at {run.changed}."
    many = "epochs are" if len(run.epochs) > 1 else "epoch is"
    return f"{len(run.epochs)}{of_all} {many} recorded, the last at {run.changed}."


def _result(summary: Summary) -> str:
    split, name, best = main_score(summary)
    if best is None:
        return "The run has ended; no test or validation score was recorded, or it is not a finite number."
    if not best.is_share:
        return f"{heading(name)} on the {split} data is {number(best.value)}."
    right = " are classified correctly" if name == "accuracy" else f" ({label(name)})"
    return f"{percent(best.value)} of {best.examples:,} {split} examples{right}."


def baseline(summary: Summary) -> tuple[str, str, float] | None:
    """Name, metric and score of what stands beside the result; None where there is nothing comparable."""
    beside, name = summary.baseline, main_metric(summary)
    if beside is None or not beside.metrics:
        return None
    metric = name if name in beside.metrics else next(iter(beside.metrics))
    value = beside.metrics[metric]
    return None if value is None else (beside.name, metric, value)


def _beside(summary: Summary) -> str:
    found = baseline(summary)
    if found is None:
        return ""
    name, metric, value = found
    return f"For comparison, a simple model ({name}) on the same split: {label(metric)} {number(value)}."


def _found(run: RunFiles) -> str:
    if not run.findings:
        so_far = "" if run.finished else " so far"
        return f"Nothing was found to be wrong inside the model{so_far}." if run.statistics else ""
    gravest, earliest = run.findings[0], min(run.findings, key=lambda finding: finding.step)
    if len(run.findings) == 1:
        return f"One finding: {_words(gravest)}."
    # what came first is often the cause of what is gravest
    first = f"; the first: {_words(earliest)}" if earliest.rule != gravest.rule else ""
    return f"{len(run.findings)} findings, the gravest: {_words(gravest)}{first}."


def _words(finding) -> str:
    where = f" in {finding.layer}" if finding.layer else ""
    return f"{finding.rule.replace('_', ' ')}{where}, since step {finding.step}"


def _course(summary: Summary) -> str:
    if not summary.epochs:
        return ""
    many = "epoch" if summary.epochs == 1 else "epochs"
    stopped = "Stopped early after" if summary.status == "stopped early" else "Trained for"
    text = f"{stopped} {summary.epochs} {many}{f' in {duration(summary.seconds)}' if summary.seconds else ''}"
    if summary.keep == "best" and summary.best_epoch:
        by = f", the best by {label(summary.monitor)}" if summary.monitor else ""
        return f"{text}; the weights are those of epoch {summary.best_epoch}{by}."
    return f"{text}; the weights are those of the last epoch." if summary.keep == "last" else f"{text}."


def _smoke(summary: Summary) -> str:
    return "This was a smoke test on shrunk data: its scores say nothing about the recipe." if summary.smoke else ""


def _gap(summary: Summary) -> str:
    """A sentence where training examples do better than test examples by more than chance explains."""
    name = main_metric(summary)
    train, test = (score(summary, split, name) if name else None for split in ("train", "test"))
    if summary.smoke or not (train and test and train.is_share and test.is_share):
        return ""
    gap = train.value - test.value
    if gap < NOTABLE_GAP or probability_of_equal_shares(train, test) > 0.05:
        return ""
    return (
        f"While training it reached {percent(train.value)} on its training examples: the {100 * gap:.1f} points between are more than "
        "chance explains, so part of what it learned does not carry over to new examples."
    )


def probability_of_equal_shares(*scores: Score) -> float:
    """P value of Fisher's exact test, which also holds for few examples and shares near 1."""
    from scipy.stats import fisher_exact

    right = [round(one.value * one.examples) for one in scores]
    return fisher_exact([[count, one.examples - count] for count, one in zip(right, scores, strict=True)]).pvalue


_ACRONYMS = {"rmse": "RMSE", "mae": "MAE", "auroc": "AUROC", "iou": "IoU", "r2": "R²"}


def label(name: str) -> str:
    """A metric's name in words: `val_top_5_accuracy` -> `validation top 5 accuracy`."""
    words = f"validation {name.removeprefix('val_')}" if name.startswith("val_") else name
    return " ".join(_ACRONYMS.get(word, word) for word in words.replace("_", " ").split(" "))


def heading(name: str) -> str:
    """`label`, with a capital in front."""
    text = label(name)
    return text[:1].upper() + text[1:]


def percent(share: float) -> str:
    text = f"{100 * share:.1f}"
    # 100.0 is kept for a share that really is 1
    return f"{'99.9' if text == '100.0' and share < 1 else '100' if share == 1 else text} %"


def number(value: float | None) -> str:
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
