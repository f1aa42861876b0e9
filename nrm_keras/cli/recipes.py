"""Verbs about recipes. None of them imports TensorFlow, but `validate --build`."""

from __future__ import annotations

import argparse
import sys

from nrm_keras.cli.arguments import add_allow_imports, add_recipe, add_verb, names_and_overrides
from nrm_keras.cli.output import print_table
from nrm_keras.errors import MISUSE, PROGRAM, UserError


def list_recipes(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe import listing

    print_table(listing.COLUMNS, listing.rows())


def show(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe.loading import load

    print(load(arguments.name, arguments.overrides).to_yaml(origin=arguments.origin), end="")


def copy(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe import catalog

    target = catalog.copy(arguments.name, arguments.dest)
    print(f"{target}\nRun it: {PROGRAM} run {target}")


def validate(arguments: argparse.Namespace) -> int:
    from nrm_keras.recipe.lints import lints
    from nrm_keras.recipe.loading import import_modules, load_with_variants

    names, overrides = names_and_overrides(arguments.words)
    if not names:
        raise UserError(f"validate needs a recipe. Received: none. Such as: {PROGRAM} validate images/digits_adaptive")
    status = 0
    for name in names:
        try:
            recipes = load_with_variants(name, overrides, allow_imports=arguments.allow_imports)
            for loaded in recipes if arguments.build else ():
                import_modules(loaded)
                _build(loaded)
        except UserError as error:
            print(error, file=sys.stderr)
            status = MISUSE
            continue
        warnings = dict.fromkeys(line for loaded in recipes for line in lints(loaded))
        for line in warnings:
            print(line, file=sys.stderr)
        print(f"{name}: valid" + (f", as are @{', @'.join(recipes[0].variants)}" if len(recipes) > 1 else ""))
    return status


def _build(loaded) -> None:
    from nrm_keras.training.startup import quiet_start

    with quiet_start():
        from nrm_keras.training import train
    train.check(loaded.recipe)


def schema(arguments: argparse.Namespace) -> None:
    import json

    from nrm_keras.recipe.editor import json_schema

    print(json.dumps(json_schema(), indent=2))


def add(subparsers) -> None:
    """Adds these verbs to the parser."""
    for add_one in (_add_ls, _add_show, _add_cp, _add_validate, _add_schema):
        add_one(subparsers)


def _add_ls(subparsers) -> None:
    add_verb(subparsers, "ls", list_recipes, "list the shipped recipes", "ls")


def _add_show(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "show",
        show,
        "print a recipe with everything resolved",
        "show images/digits_adaptive",
        "show images/digits_adaptive@batch --origin",
        "show my.yaml norm.type=batch data.batch_size=8",
    )
    add_recipe(parser)
    parser.add_argument("--origin", action="store_true", help="say where each value comes from")


def _add_cp(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "cp",
        copy,
        "copy a shipped recipe to change it",
        "cp images/digits_adaptive my.yaml",
        "cp images/digits_adaptive experiments/",
    )
    parser.add_argument("name", metavar="NAME", help="a shipped recipe")
    parser.add_argument("dest", metavar="DEST", help="a file that does not exist yet, or a directory")


def _add_validate(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "validate",
        validate,
        "check recipes and all their variants, without training",
        "validate images/digits_adaptive",
        "validate my.yaml other.yaml",
        "validate my.yaml norm.type=batch --build",
    )
    parser.add_argument(
        "words", nargs="+", metavar="NAME", help="recipes (see show), and section.key=value for all of them"
    )
    parser.set_defaults(more="words")
    parser.add_argument("--build", action="store_true", help="import the recipe's modules and build its model too")
    add_allow_imports(parser)


def _add_schema(subparsers) -> None:
    add_verb(
        subparsers,
        "schema",
        schema,
        "print the JSON schema of recipes, for editors",
        "schema > recipe.schema.json   # then '# yaml-language-server: $schema=recipe.schema.json' on top of a recipe",
    )
