"""Trains a recipe with several seeds: a process and a run directory each, one after the other."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.errors import PROGRAM, UserError
from nrm_keras.recipe import loading
from nrm_keras.recipe.writing import difference
from nrm_keras.runs import directory
from nrm_keras.training import earlier
from nrm_keras.training.launch import require_files

INTERRUPTED = 130  # the exit status of a run that was stopped and saved


@dataclass(frozen=True)
class Training:
    """A recipe to train, as the command line says it.

    Args:
        recipe: the name of a shipped recipe, NAME@variant, or a path.
        overrides: `section.key=value` each.
        own: more of them, which the recipe that it is compared with does not have.
        out: where run directories are made.
        smoke, allow_imports: as in `launch.run`.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    out: str = "runs"
    smoke: bool = False
    allow_imports: bool = False

    @property
    def name(self) -> str:
        """What it is called in a comparison."""
        return " ".join([self.recipe, *self.own])

    @property
    def title(self) -> str:
        """The recipe with all its changes."""
        return " ".join([self.recipe, *self.changes()])

    def changes(self, seed: int | None = None) -> list[str]:
        return [*self.overrides, *self.own, *([] if seed is None else [f"train.seed={seed}"])]

    def load(self, seed: int | None = None) -> loading.Loaded:
        return loading.load(self.recipe, self.changes(seed), allow_imports=self.allow_imports)

    def words(self, seed: int | None = None) -> list[str]:
        """The words behind `run` that train it."""
        options = [*(["--smoke"] if self.smoke else []), *(["--out", self.out] if self.out != "runs" else [])]
        return [self.recipe, *self.changes(seed), *options, *self.flags]

    @property
    def flags(self) -> list[str]:
        return ["--allow-imports"] if self.allow_imports else []


def parse(text: str) -> tuple[int, ...]:
    """The seeds that `0,1,2` names.

    Raises:
        UserError: one of them is no whole number from 0 on, or is there twice.

    Example:

        >>> parse("0,1,2")
        (0, 1, 2)
    """
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    seeds = tuple(int(word) for word in words if word not in wrong)
    if wrong or len(set(seeds)) < len(seeds):
        received = f"'{text}'" + (f", where '{wrong[0]}' is none" if wrong else ", where one is there twice")
        raise UserError(
            f"--seeds takes different whole numbers from 0 on, with commas between them. Received: {received}. "
            "Such as --seeds 0,1,2."
        )
    return seeds


def check(training: Training, seeds: Sequence[int], against: Training | None = None) -> None:
    """Checks what can be checked before hours of training.

    Raises:
        UserError: a recipe or seed is not in order, a change names a seed, or both recipes are the same.
    """
    for seed in seeds:
        training.load(seed)
    both = [one.load() for one in (training, against) if one]
    for loaded in both:
        if loaded.origins["train.seed"] == "command line":
            raise UserError(
                f"--seeds says which seeds are trained. Received: train.seed={loaded.recipe.train.seed} beside it. "
                "Leave one of them out."
            )
        loading.import_modules(loaded)
        require_files(loaded.recipe)
    if against and not difference(both[0].recipe, both[1].recipe):
        raise UserError(
            f"--against needs a recipe that differs. Received: {both[1].name}, which is the same in everything. "
            f"Name another recipe or a change, such as --against {both[0].name}@variant or --against norm.type=batch."
        )


def train(
    training: Training, seeds: Sequence[int], command: str, say: Callable[[str], None] = print
) -> dict[int, Path]:
    """Trains each seed in a process of its own, as `run ... train.seed=N` does, so that it has the same bits.

    Finished runs of the same recipe, code and data are taken as they are; stopped ones go on.

    Args:
        command: what the user called, and calls again to go on.

    Returns:
        The run directory of each seed.

    Raises:
        UserError: a seed could not be trained; its process has said why.
        KeyboardInterrupt: stopped, with everything saved.
    """
    runs: dict[int, Path] = {}
    for number, seed in enumerate(seeds, 1):
        try:
            runs[seed] = _train_one(training, seed, f"Seed {number} of {len(seeds)}", say)
        except KeyboardInterrupt:
            done = f" Finished seeds are kept: {', '.join(map(str, runs))}." if runs else ""
            say(f"Stopped at seed {number} of {len(seeds)}.{done} The same command goes on: {command}")
            raise
        except SeedFailed as error:
            raise UserError(f"{error} Mend that; the same command goes on: {command}") from error
    _note_other_data(runs.values(), say)
    return runs


class SeedFailed(Exception):
    """A seed's process ended with an error."""


def _train_one(training: Training, seed: int, place: str, say: Callable[[str], None]) -> Path:
    loaded = training.load(seed)
    place = f"{place}: {training.title} train.seed={seed}"
    found, unlike = (None, "") if training.smoke else earlier.find(Path(training.out), loaded)
    if found and directory.summary(found):
        say(f"{place} is trained already, in {found}")
        return found
    say(f"{place}{f' goes on in {found}' if found else ''}")
    if unlike:
        say(f"Trained again, as {unlike}")
    before = set(_runs_of(training, loaded))
    status = _run(["--resume", str(found), *training.flags] if found else training.words(seed))
    if status:
        raise SeedFailed(f"{place}: every seed must be trained. Received: exit status {status}, see above.")
    return found or _new_run(training, loaded, before)


def _runs_of(training: Training, loaded: loading.Loaded) -> list[Path]:
    return directory.find_all(Path(training.out) / loaded.name)


def _new_run(training: Training, loaded: loading.Loaded, before: set[Path]) -> Path:
    """The run that was not there before; others may train the same recipe with other seeds meanwhile."""
    new = [
        path
        for path in _runs_of(training, loaded)
        if path not in before and earlier.same_recipe(path, loaded, training.smoke)
    ]
    if not new:
        raise UserError(
            f"{Path(training.out) / loaded.name}: the run that was just trained must be there. Received: none. "
            "Was it moved or removed? Run it again."
        )
    return new[-1]


def _run(words: list[str]) -> int:
    """The exit status of `run ...`, which ends first whatever signal comes: it has a checkpoint to write.

    A terminal sends Ctrl-C to both processes. SIGTERM is sent to this one, and passed on.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    signals: list[int] = []
    process = None

    def handle(number, frame):
        signals.append(number)
        if number == signal.SIGTERM and process:
            process.terminate()

    with contextlib.suppress(BrokenPipeError):
        if sys.stdout:
            sys.stdout.flush()  # or our lines would stand behind those of the process
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen([sys.executable, "-m", "nrm_keras", "run", *words])
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals or status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


def _note_other_data(runs: Iterable[Path], say: Callable[[str], None]) -> None:
    """Seeds that saw different examples do not differ by the seed alone."""
    prints = {(directory.environment(path).get("data") or {}).get("fingerprint") for path in runs}
    if len(prints) > 1:
        say("Note: the data changed between these seeds, so they differ by more than the seed.")


def command_line(training: Training, seeds: Sequence[int], against: Sequence[str]) -> str:
    """The command that trains these seeds, or goes on with them."""
    options = ["--seeds", ",".join(map(str, seeds)), *(word for one in against for word in ("--against", one))]
    return shlex.join([*PROGRAM.split(), "run", *training.words(), *options])
