"""A tiny archive in CIFAR-10's exact binary format."""

import io
import tarfile
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_archive(folder: Path, per_file: int = 20) -> Path:
    """`cifar-10-binary.tar.gz` with five training files and a test file of random pictures, each class alike in colour."""
    rng = np.random.default_rng(0)
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, "batches.meta.txt", "\n".join(CLASSES).encode() + b"\n")
        for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
            labels = rng.permutation(np.arange(per_file) % 10).astype("uint8")
            # one byte of label, then 1,024 bytes of red, of green and of blue
            pictures = rng.integers(0, 100, (per_file, 3072), dtype="uint8") + labels[:, None] * 15
            _add(archive, name, np.concatenate([labels[:, None], pictures.astype("uint8")], axis=1).tobytes())
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
