"""Tiny archives in the exact formats that TFDS's builders read."""

import csv
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image


def write_patch_camelyon(folder: Path, sizes: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The six `.h5.gz` files with random patches; gives back each split's images and labels."""
    rng, content = np.random.default_rng(0), {}
    for split, count in sizes.items():
        images, labels = rng.integers(0, 256, (count, 96, 96, 3), "uint8"), np.arange(count, dtype="uint8") % 2
        for key, values in (("x", images), ("y", labels.reshape(-1, 1, 1, 1))):
            plain = io.BytesIO()
            with h5py.File(plain, "w") as file:
                file[key] = values
            (folder / f"camelyonpatch_level_2_split_{split}_{key}.h5.gz").write_bytes(
                gzip.compress(plain.getvalue(), 1)
            )
        content[split] = images, labels
    return content


def write_colorectal(folder: Path, slides: int = 10) -> Path:
    """Kather's zip: eight folders of tiles, named by the slide and the place they are from."""
    path = folder / "Kather_texture_2016_image_tiles_5000.zip"
    names = ("TUMOR", "STROMA", "COMPLEX", "LYMPHO", "DEBRIS", "MUCOSA", "ADIPOSE", "EMPTY")
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names, 1):
            for slide in range(1, slides + 1):
                tile = np.full((150, 150, 3), (number * 20, slide * 20, 0), "uint8")
                place = f"1{slide:X}{number}_CRC-Prim-HE-{slide:02}_001.tif_Row_1_Col_151.tif"
                archive.writestr(
                    f"Kather_texture_2016_image_tiles_5000/{number:02}_{name}/{place}", _encoded(tile, "TIFF")
                )
    return path


def write_malaria(folder: Path, count: int = 12) -> Path:
    """`cell_images.zip`: two folders of PNG files of many sizes, one colour a class."""
    path = folder / "cell_images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, colour in (("Parasitized", 200), ("Uninfected", 100)):
            for number in range(count):
                cell = np.full((100 + number, 140 - number, 3), colour, "uint8")
                archive.writestr(f"cell_images/{name}/C{number}P1thinF_cell_{number}.png", _encoded(cell, "PNG"))
            archive.writestr(f"cell_images/{name}/Thumbs.db", b"no picture, as in the original")
    return path


def write_imdb(folder: Path, texts: dict[str, list[str]]) -> Path:
    """`aclImdb_v1.tar.gz` with a file for each text; the keys are folders, such as `train/pos`."""
    path = folder / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for where, some in texts.items():
            for number, text in enumerate(some):
                info = tarfile.TarInfo(f"aclImdb/{where}/{number}_7.txt")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
    return path


def write_ag_news(folder: Path, rows: dict[str, list[tuple[int, str, str]]]) -> Path:
    """`ag_news_csv.tar.gz`: label from 1, title, description."""
    path = folder / "ag_news_csv.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for split, some in rows.items():
            table = io.StringIO()
            csv.writer(table, quoting=csv.QUOTE_ALL).writerows(some)
            info = tarfile.TarInfo(f"ag_news_csv/{split}.csv")
            info.size = len(table.getvalue().encode())
            archive.addfile(info, io.BytesIO(table.getvalue().encode()))
    return path


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()
