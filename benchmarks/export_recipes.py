"""Whether every shipped recipe exports in smoke mode, and its model takes raw input.

    python benchmarks/export_recipes.py [RECIPE[@VARIANT] ...]

Each recipe is run with --smoke and exported with its monitor; then every signature is asked for the example of the model card.
Printed are the largest differences from the Keras model, between batches, and of the answer from the card's; or why a recipe
failed.
"""

import argparse
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import nrm_keras
from nrm_keras.errors import UserError
from nrm_keras.recipe import catalog


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all that are shipped")
    failed = []
    for name in parser.parse_args().recipes or catalog.names():
        began = time.monotonic()
        try:
            said = checked(name)
        except (UserError, tf.errors.OpError, ValueError, TypeError) as error:  # others are still to be looked at
            failed.append(name)
            said = f"FAILED: {error}"
        print(f"{name:36} {time.monotonic() - began:4.0f} s  {said}", flush=True)
    print(f"Failed: {', '.join(failed)}" if failed else "All export.")
    return bool(failed)


def checked(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = nrm_keras.run(name, out=f"{folder}/runs", smoke=True, say=lambda line: None)
        card = (done := nrm_keras.export(run.path, f"{folder}/served", say=lambda line: None)).card
        loaded = tf.saved_model.load(done.path)
        request = columns(card["example_request"]["instances"], card["input"])
        answers = {key: loaded.signatures[key](**request) for key in card["signatures"]}
    answer = "values" if card["task"] == "regression" else "scores"
    expected = columns(card["example_answer"]["predictions"], {"name": answer, "dtype": "float32"})[answer]
    again = float(np.abs(answers["serving_default"][answer] - expected).max())
    found = card["check"]
    differences = "  ".join(f"{output} {value:.1e}" for output, value in found["differences"].items())
    return (
        f"{differences}  batches {found['batch_dependence']:.1e}  example {again:.1e}  of {found['examples']} examples"
    )


def columns(rows, specs) -> dict[str, tf.Tensor]:
    """Rows of the REST API as a tensor for each name."""
    specs = specs if isinstance(specs, list) else [specs]
    named = rows if isinstance(rows[0], dict) else [{specs[0]["name"]: row} for row in rows]
    return {spec["name"]: tf.constant([row[spec["name"]] for row in named], spec["dtype"]) for spec in specs}


if __name__ == "__main__":
    sys.exit(main())
