"""The model card: `model_card.json` for programs, and the same as `README.md` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from nrm_keras.runs import directory
from nrm_keras.serving.digest import EXAMPLE_REQUEST, MODEL_CARD, README, digest
from nrm_keras.serving.exporting.checking import Checked
from nrm_keras.serving.exporting.interface import FEATURES, IMAGE, LABELS, SCORES, TEXT, VALUES
from nrm_keras.serving.exporting.making import Made
from nrm_keras.serving.exporting.saved_model import MONITOR, SERVING
from nrm_keras.serving.exporting.subject import Subject
from nrm_keras.version import __version__

VERSION = 1
_LONGEST = 1500  # characters of a request in a command line
_LONGEST_ANSWER = 600


def write(folder: Path, version: str, subject: Subject, made: Made, format: str, steps, checked: Checked) -> dict:
    """Writes both into a folder whose other files are complete, and gives the card's content."""
    request = {"instances": rows(subject.example)}
    if format == "savedmodel":
        (folder / EXAMPLE_REQUEST).write_text(json.dumps(request) + "\n", "utf-8")
    content = _content(subject, made, format, steps, checked) | {
        "example_request": request,
        "example_answer": {"predictions": rows(checked.example)},
        "digest": digest(folder),
    }
    directory.write_json(folder / MODEL_CARD, content)
    directory.write_text(folder / README, _readme(content, version))
    return content


def _content(subject: Subject, made: Made, format: str, steps, checked: Checked) -> dict:
    interface, facts = subject.interface, dict(subject.facts)
    inputs = [{"name": name, "dtype": dtype, "shape": list(shape)} for name, (shape, dtype) in interface.specs.items()]
    what = "targets" if interface.task == "regression" else "classes"
    return {
        "version": VERSION,
        "name": subject.name,
        "title": facts.pop("title", subject.name),
        "nrm_keras": __version__,
        "format": format,
        "file": made.path.name if format != "savedmodel" else None,
        "task": interface.task,
        what: list(interface.names),
        "input": inputs[0] if len(inputs) == 1 else inputs,
        "image_size": list(interface.size) if interface.size else None,
        "signatures": list(made.signatures),
        "metrics": {},
        "data": None,
        "recipe": None,
        **facts,
        "limits": [*_limits(subject), *facts.get("limits", [])],
        "specialization": [
            {"layer": step.layer, "what": step.what, "difference": float(step.difference)} for step in steps
        ],
        "check": {
            "examples": checked.examples,
            "split": subject.split,
            "tolerances": dict(checked.tolerances),
            "differences": dict(checked.differences),
            "batch_dependence": checked.batch_dependence,
            "metrics": {name: {"keras": a, "exported": b} for name, (a, b) in checked.metrics.items()},
        },
    }


def _limits(subject: Subject) -> list[str]:
    """What the interface itself can't do."""
    interface = subject.interface
    said = []
    if interface.task != "regression":
        said.append("It knows no class beside these: whatever it is shown, it names one of them.")
        said.append("Scores are the network's softmax, not calibrated: 0.9 is not right in 9 of 10 cases.")
    if IMAGE in interface.specs:
        values = subject.requests[IMAGE]
        said.append(f"Pixels have the values of training, {values.min()} to {values.max()} in its examples.")
    elif TEXT not in interface.specs:
        said.append("Numbers are taken in the units of training.")
    return said


def rows(values: dict[str, np.ndarray]) -> list:
    """Examples as TensorFlow Serving's REST API has them: the value of each, or an object of several named ones."""
    plain = {name: _plain(array) for name, array in values.items()}
    if len(plain) == 1:
        return next(iter(plain.values()))
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def _plain(array: np.ndarray) -> list:
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace").tolist()
    if array.dtype.kind == "f":  # nine digits tell float32 numbers apart
        return np.char.mod("%.9g", array).astype("float64").tolist()
    return array.tolist()


def _readme(card: dict, version: str) -> str:
    environment = Environment(
        loader=PackageLoader("nrm_keras.serving.exporting", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = card.get("classes") or card["targets"]
    inputs = card["input"] if isinstance(card["input"], list) else [card["input"]]
    metrics = card["metrics"].values()
    return environment.get_template("card.md").render(
        card=card,
        version=version,
        names=f"{len(names)} {'classes' if 'classes' in card else 'targets'}: {_shortened(', '.join(names), 300)}",
        inputs=[row | {"shape": _shape(row["shape"])} for row in inputs],
        input_note=_input_note(card),
        outputs=_outputs(card),
        curl=_curl(card),
        answer=_shortened(json.dumps(card["example_answer"]), _LONGEST_ANSWER),
        metric_names=sorted({name for values in metrics for name in values}),
        recipe=card["recipe"] and _indented(yaml.safe_dump(card["recipe"], sort_keys=False, allow_unicode=True)),
    )


def _curl(card: dict) -> str:
    address = f"http://localhost:8501/v1/models/{card['name']}:predict"
    text = json.dumps(card["example_request"])
    given = f"@{EXAMPLE_REQUEST}" if len(text) > _LONGEST or "'" in text else f"'{text}'"
    return f"curl -d {given} {address}"


def _input_note(card: dict) -> str:
    if not card["image_size"]:
        return ""
    height, width = card["image_size"]
    if card["format"] != "savedmodel":
        return f"Images of {height} x {width} pixels."
    return f"Images of any size, one size per request: they are resized to {height} x {width} pixels, as for training."


def _outputs(card: dict) -> Sequence[tuple[str, str, str]]:
    if card["task"] == "regression":
        found = [(SERVING, VALUES, f"the targets, in this order: {', '.join(card['targets'])}")]
    elif card["task"] == "segmentation":
        found = [
            (SERVING, SCORES, "for each position the probability of each class"),
            (SERVING, LABELS, "for each position the number of its class"),
        ]
    else:
        found = [(SERVING, SCORES, "the probability of each class"), (SERVING, LABELS, "the class")]
    if card["format"] != "savedmodel":
        return found[:1]
    found.append((FEATURES, FEATURES, "what the last layer takes"))
    if MONITOR in card["signatures"]:
        found += [
            (MONITOR, "p_value", "how likely a request without drift is as far from the reference"),
            (MONITOR, "score", "how far the request is over all layers"),
            (MONITOR, "distance, layers", "how far it is at each watched layer"),
        ]
    return found


def _shape(shape: list) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ..."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
