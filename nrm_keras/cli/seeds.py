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
    training = seeds.Training(name, overrides, arguments.out or "runs", arguments.smoke, arguments.allow_imports)
    against = _against(training, arguments.against)
    seeds.check(training, against)
    command = seeds.command_line(training, wanted, arguments.against)
    found = []
    for one in filter(None, (training, against)):
        runs = seeds.train(one, wanted, command)
        found.append(report.scores(one.title, runs))
    for scores in found:
        _print(f"{scores.split.capitalize()} data, {scores.name}", report.table(scores))
    if against:
        _print(f"{found[0].name} minus {found[1].name}, seed by seed", report.difference_table(*found))


def _against(training, words: Sequence[str]):
    """The recipe to compare with: it gets the changes of the first one, and its own on top."""
    names, changes = names_and_overrides(words)
    if len(names) > 1:
        raise UserError(
            f"--against takes one recipe, and changes of its own. Received: {', '.join(names)}. Leave the others out."
        )
    if not words:
        return None
    name = names[0] if names else training.recipe
    return replace(training, recipe=name, overrides=[*training.overrides, *changes])


def _print(title: str, table) -> None:
    print(f"\n{title}:")
    print_table(table.head, table.rows)
    if table.note:
        print(table.note)
