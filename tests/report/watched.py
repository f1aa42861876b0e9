"""Runs with statistics of their layers, without a training."""

import json
import random
from pathlib import Path

from tests.report.conftest import ENVIRONMENT, RECIPE, SUMMARY, metric_rows

STEPS = range(1, 41, 5)
LAYERS = ("stem", "stem_norm", "logits")


def records(seed: int = 0, noise: float = 0.1, steps=STEPS, layers=LAYERS) -> list[dict]:
    """Numbers around 1 with normal noise, as InternalStatistics lays them out."""
    draw = random.Random(seed)
    found = []
    for step in steps:
        head = {"step": step, "epoch": 0}
        found.append({**head, "kind": "step", "loss": draw.gauss(1, noise), "learning_rate": 0.1, "gradient_norm": 1.0})
        for layer in layers:
            numbers = {name: draw.gauss(1, noise) for name in ("mean", "variance", "gradient_rms")}
            channels = {"channel_mean": [0.5, 0.25], "channel_variance": [1, 1]}
            found.append(
                {**head, "kind": "activation", "layer": layer, **numbers, "dead": 0.0, "saturated": None, **channels}
            )
        for layer in layers:
            numbers = {name: draw.gauss(1, noise) for name in ("norm", "gradient_norm", "update_norm", "update_ratio")}
            found.append({**head, "kind": "weight", "layer": f"{layer}/kernel", **numbers})
    return found


def change(found: list[dict], step: int, layer: str, column: str, value) -> list[dict]:
    """The records with one number changed."""
    (place,) = [index for index, r in enumerate(found) if r["step"] == step and r.get("layer") == layer and column in r]
    return [{**r, column: value} if index == place else r for index, r in enumerate(found)]


def write(path: Path, found: list[dict] | None = None, *, seed: int = 0, recipe: str = RECIPE, **files) -> Path:
    """A run directory; `files` are texts by the stem of the file's name, None leaves a file out."""
    path.mkdir(parents=True)
    summary = {**SUMMARY, "seed": seed}
    texts = {
        "recipe.yaml": recipe.replace("seed: 0", f"seed: {seed}"),
        "summary.json": json.dumps(summary),
        "environment.json": json.dumps(ENVIRONMENT),
        "metrics.csv": "\n".join(
            ["epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds", *metric_rows(15, seed)]
        )
        + "\n",
        "statistics.jsonl": None if found is None else "".join(f"{json.dumps(record)}\n" for record in found),
    }
    texts |= {name: files[name.partition(".")[0]] for name in texts if name.partition(".")[0] in files}
    for name, text in texts.items():
        if text is not None:
            (path / name).write_text(text)
    return path
