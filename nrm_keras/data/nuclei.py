"""Binding energies of nuclei, as evaluated from measured masses."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nrm_keras.data.examples import Examples, Split, holdout, with_held_out
from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.errors import UserError

TARGET = "binding energy per nucleon (MeV)"
_HYDROGEN, _NEUTRON = 7.288971064, 8.0713181  # mass excess in MeV of the atom and of the neutron, from the same table
_MAGIC = (2, 8, 20, 28, 50, 82, 126, 184)  # closed shells; 184 is a prediction


class Nuclei(PackagedSource):
    """Binding energy per nucleon by the numbers of protons and neutrons (AME2020: Wang et al. 2021)."""

    name = "nuclei"
    what = "binding energies of 2,550 measured nuclei by their protons and neutrons (AME2020)"
    size = "0.8 MB, in a package of 45 MB"
    licence = "BSD-3-Clause (pynucastro); the table's is not stated"
    package = Package(
        "PyPI",
        "pynucastro",
        "3.1.0",
        {
            "pynucastro/nucdata/AtomicMassEvaluation/nubase_4.mas20.txt": (
                "1585a5eea86c5e17e90307c7e6e786d060049c4039e392a261ff6db977df9859"
            )
        },
        installed="pynucastro",
    )

    @classmethod
    def load(cls, data, limit: int | None = None) -> Examples:
        path = cls.files()["nubase_4.mas20.txt"]
        table = read_table(path)
        chosen = table.protons + table.neutrons > 1  # nothing is bound in a single nucleon
        light = chosen & (np.minimum(table.protons, table.neutrons) < data.lightest)
        extrapolated = chosen & ~light & ~table.measured
        chosen &= ~light
        if data.values == "measured":
            chosen &= table.measured
        table = table.take(chosen)
        nuclei = Split(features(table, data.features), table.energy[:, None].astype("float32"))
        splits = split(nuclei, table.protons + table.neutrons, data)
        return Examples(
            (),
            **splits,
            origin=str(path),
            shape=(len(data.features),),
            targets=(TARGET,),
            notes=_notes(data, table, light.sum(), extrapolated.sum()),
            caveat=_CAVEATS[data.split],
        )

    @classmethod
    def mock(cls, data, count: int) -> Examples:
        chance = np.random.default_rng(0)

        def part() -> Split:
            table = Table(*chance.integers(8, 100, (2, count)), *chance.uniform(7, 9, (2, count)), np.ones(count, bool))
            return Split(features(table, data.features), table.energy[:, None].astype("float32"))

        return Examples((), part(), part(), part(), "random numbers", (len(data.features),), targets=(TARGET,))


def _notes(data, table: Table, light: int, extrapolated: int) -> tuple[str, ...]:
    kept = "left out" if data.values == "measured" else "among the examples"
    left = f"{light} nuclei with fewer than {data.lightest} protons or neutrons are left out (data.lightest)."
    return (
        *((left,) if light else ()),
        f"{extrapolated} nuclei whose mass is not measured but extrapolated from trends are {kept} (data.values).",
        (
            f"Uncertainty of the binding energies per nucleon as evaluated: median {np.median(table.uncertainty):.1g} MeV,"
            f" largest {table.uncertainty.max():.1g} MeV."
        ),
    )


_CAVEATS = {
    "random": "The nuclei of the test lie among those of training, so the score is that of filling gaps in a table and"
    " says nothing of nuclei beyond it.",
    "heavy": "The test is extrapolation to heavier nuclei than any in training; the validation split is of lighter ones"
    " and does not foresee it.",
}


class Table(NamedTuple):
    """A nucleus per row: its protons and neutrons, binding energy and uncertainty per nucleon in MeV, whether measured."""

    protons: np.ndarray
    neutrons: np.ndarray
    energy: np.ndarray
    uncertainty: np.ndarray
    measured: np.ndarray

    def take(self, index) -> Table:
        return Table(*(column[index] for column in self))


def read_table(path: Path) -> Table:
    """The ground states of a NUBASE2020 table whose mass is given.

    Raises:
        UserError: a line is cut or is none of such a table.
    """
    rows = []
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: a NUBASE2020 table is plain ASCII text. Received: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if int(line[7]) == 0 and line[18:31].strip():  # 0: not an excited state
                rows.append(_row(line))
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{path}, line {number}: a line of a NUBASE2020 table has mass number, atomic number, mass excess and its"
                f" uncertainty in fixed columns. Received: {line[:60]!r}. Get the file again."
            ) from error
    if not rows:
        raise UserError(f"{path}: a NUBASE2020 table holds nuclei. Received: none. Get the file again.")
    return Table(*map(np.array, zip(*rows, strict=True)))


def _row(line: str):
    """Columns as in the file's head, which counts from 1: AAA 1-3, ZZZ 5-7, mass excess 19-31, its uncertainty 32-42, keV."""
    nucleons, protons = int(line[:3]), int(line[4:7])
    excess, uncertainty = line[18:31].strip(), line[31:42].strip()
    if not 0 <= protons <= nucleons:
        raise ValueError(f"{protons} protons of {nucleons} nucleons")
    neutrons = nucleons - protons
    mass = float(excess.rstrip("#")) / 1e3
    energy = (protons * _HYDROGEN + neutrons * _NEUTRON - mass) / nucleons
    return protons, neutrons, energy, float(uncertainty.rstrip("#")) / 1e3 / nucleons, not excess.endswith("#")


def features(table: Table, names: tuple[str, ...]) -> np.ndarray:
    """float32 `(nuclei, names)`. Each name is Z (protons) or N (neutrons), or one of them behind log, odd or magic."""
    columns = []
    for name in names:
        kind, _, of = name.rpartition("_")
        columns.append(_FEATURES[kind](table.protons if of == "Z" else table.neutrons))
    return np.stack(columns, 1).astype("float32")


_FEATURES = {
    "": lambda number: number,
    "log": np.log1p,
    "odd": lambda number: number % 2,
    "magic": lambda number: np.abs(number[:, None] - np.array(_MAGIC)).min(1),
}


def split(nuclei: Split, nucleons: np.ndarray, data) -> dict[str, Split]:
    """Random splits, or the heaviest nuclei as the test: at most `data.test` of all, each heavier than any other."""
    if data.split == "random":
        return with_held_out({"train": nuclei}, data)
    count = int(data.test * len(nuclei))
    heaviest_kept = np.sort(nucleons)[len(nuclei) - count - 1]
    kept = nuclei.take(nucleons <= heaviest_kept)
    train, validation = holdout(kept, data.validation / (1 - data.test), data.split_seed)
    return {"train": train, "validation": validation, "test": nuclei.take(nucleons > heaviest_kept)}
