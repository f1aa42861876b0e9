"""Verbs about recipes. None of them imports TensorFlow, but `validate --build`."""

from __future__ import annotations

import argparse
import sys

from nrm_keras.cli.arguments import add_allow_imports, add_recipe, add_verb, names_and_overrides
from nrm_keras.cli.output import print_heading, print_table
from nrm_keras.errors import MISUSE, PROGRAM, UserError


def list_recipes(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe import listing
    from nrm_keras.studies import listing as studies

    print_table(listing.COLUMNS, listing.rows())
    found = studies.rows()
    if found:
        print_heading(f"Studies, for {PROGRAM} study NAME")
        print_table(studies.COLUMNS, found)


def show(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe.loading import load
    from nrm_keras.studies import loading as studies

    if studies.is_study(arguments.name):
        _no_overrides(arguments.name, arguments.overrides)
        loaded = studies.load(arguments.name)
    else:
        loaded = load(arguments.name, arguments.overrides)
    print(loaded.to_yaml(origin=arguments.origin), end="")


def _no_overrides(name: str, overrides: list[str]) -> None:
    if overrides:
        raise UserError(
            f"{name}: the recipes of a study are changed in its file. Received: {overrides[0]}. Change it there;"
            f" `{PROGRAM} cp` copies a shipped one."
        )


def copy(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe import catalog

    target = catalog.copy(arguments.name, arguments.dest)
    verb = "study" if catalog.is_study(arguments.name) else "run"
    print(f"{target}\nRun it: {PROGRAM} {verb} {target}")


def validate(arguments: argparse.Namespace) -> int:
    names, overrides = names_and_overrides(arguments.words)
    if not names:
        raise UserError(f"validate needs a recipe. Received: none. Such as: {PROGRAM} validate images/digits_adaptive")
    status = 0
    for name in names:
        try:
            recipes, also = _loaded(name, overrides, arguments.allow_imports)
            for loaded in recipes if arguments.build else ():
                _build(loaded)
        except UserError as error:
            print(error, file=sys.stderr)
            status = MISUSE
            continue
        _print_lints(recipes)
        print(f"{name}: valid{also}")
    return status


def _loaded(name: str, overrides: list[str], allow_imports: bool) -> tuple[list, str]:
    """The recipes that a name stands for, all variants or a study's grid, and what to say of them."""
    from nrm_keras.recipe.loading import load_with_variants
    from nrm_keras.studies import loading as studies

    if studies.is_study(name):
        _no_overrides(name, overrides)
        study = studies.load(name, allow_imports=allow_imports)
        return [one.loaded for one in study.combinations], f", with {len(study.cells())} cells"
    recipes = load_with_variants(name, overrides, allow_imports=allow_imports)
    return recipes, f", as are @{', @'.join(recipes[0].variants)}" if len(recipes) > 1 else ""


def _print_lints(recipes: list) -> None:
    from nrm_keras.recipe.lints import lints

    for line in dict.fromkeys(line for loaded in recipes for line in lints(loaded)):
        print(line, file=sys.stderr)


def _build(loaded) -> None:
    from nrm_keras.recipe.loading import import_modules
    from nrm_keras.training.startup import quiet_start

    import_modules(loaded)
    with quiet_start():
        from nrm_keras.training import train
    train.check(loaded.recipe)


def schema(arguments: argparse.Namespace) -> None:
    import json

    from nrm_keras.recipe.editor import json_schema
    from nrm_keras.studies.editor import json_schema as schema_of_studies

    print(json.dumps(schema_of_studies() if arguments.of == "study" else json_schema(), indent=2))


def add(subparsers) -> None:
    """Adds these verbs to the parser."""
    for add_one in (_add_ls, _add_show, _add_cp, _add_validate, _add_schema):
        add_one(subparsers)


def _add_ls(subparsers) -> None:
    add_verb(subparsers, "ls", list_recipes, "list the shipped recipes and studies", "ls")


def _add_show(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "show",
        show,
        "print a recipe or study with everything resolved",
        "show images/digits_adaptive",
        "show images/digits_adaptive@batch --origin",
        "show my.yaml norm.type=batch data.batch_size=8",
        "show studies/first_epoch",
    )
    add_recipe(parser)
    parser.add_argument("--origin", action="store_true", help="say where each value comes from")


def _add_cp(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "cp",
        copy,
        "copy a shipped recipe or study to change it",
        "cp images/digits_adaptive my.yaml",
        "cp images/digits_adaptive experiments/",
        "cp studies/first_epoch my_study.yaml",
    )
    parser.add_argument("name", metavar="NAME", help="a shipped recipe or study")
    parser.add_argument("dest", metavar="DEST", help="a file that does not exist yet, or a directory")


def _add_validate(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "validate",
        validate,
        "check recipes with all their variants, and studies with all their cells, without training",
        "validate images/digits_adaptive",
        "validate my.yaml other.yaml",
        "validate my.yaml norm.type=batch --build",
        "validate studies/first_epoch",
    )
    parser.add_argument(
        "words", nargs="+", metavar="NAME", help="recipes (see show), and section.key=value for all of them"
    )
    parser.set_defaults(more="words")
    parser.add_argument("--build", action="store_true", help="import the recipe's modules and build its model too")
    add_allow_imports(parser)


def _add_schema(subparsers) -> None:
    parser = add_verb(
        subparsers,
        "schema",
        schema,
        "print the JSON schema of recipes or studies, for editors",
        "schema > recipe.schema.json   # then '# yaml-language-server: $schema=recipe.schema.json' on top of a recipe",
        "schema study > study.schema.json",
    )
    parser.add_argument("of", nargs="?", choices=("recipe", "study"), default="recipe", help="(default: recipe)")
