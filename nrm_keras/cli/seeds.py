"""`run --seeds`: trains several seeds and prints what they say together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from nrm_keras.cli.arguments import names_and_overrides
from nrm_keras.cli.output import print_table
from nrm_keras.errors import UserError


def run(arguments: argparse.Namespace, name: str, overrides: Sequence[str]) -> None:
    from nrm_keras.report import seeds as report
    from nrm_keras.training import seeds

    wanted = seeds.parse(arguments.seeds)
    training = seeds.Training(
        name,
        tuple(overrides),
        out=arguments.out or "runs",
        smoke=arguments.smoke,
        allow_imports=arguments.allow_imports,
    )
    against = _against(training, arguments.against)
    seeds.check(training, wanted, against)
    command = seeds.command_line(training, wanted, arguments.against)
    found = [
        (one, report.scores(one.name, seeds.train(one, wanted, command))) for one in filter(None, (training, against))
    ]
    for one, scores in found:
        _print(f"{scores.split.capitalize()} data, {one.title}", report.table(scores))
    if against:
        _print("The first minus the second, seed by seed", report.difference_table(*(scores for _, scores in found)))


def _against(training, words: Sequence[str]):
    """The recipe to compare with, if any: it gets the changes of the first one, and its own on top."""
    names, changes = names_and_overrides(words)
    if len(names) > 1:
        raise UserError(
            f"--against takes one recipe, and changes of its own. Received: {', '.join(names)}. Leave the others out."
        )
    if not words:
        return None
    name = names[0] if names else training.recipe
    return replace(training, recipe=name, own=tuple(changes))


def _print(title: str, table) -> None:
    print(f"\n{title}:")
    print_table(table.head, table.rows)
    if table.note:
        print(table.note)
