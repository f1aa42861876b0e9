import math

import pytest

from nrm_keras.runs.metrics import read_metrics

HEAD = "epoch,loss,val_loss"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("epoch,los", {}),  # the header itself is torn
        (f"{HEAD}\n", {"epoch": [], "loss": [], "val_loss": []}),
        (f"{HEAD}\r\n1,2.5,3\r\n", {"epoch": [1], "loss": [2.5], "val_loss": [3]}),
        (f"{HEAD}\n1,2,3\n2,1,2.5", {"epoch": [1], "loss": [2], "val_loss": [3]}),  # 2.5 may have been 2.57
        (f"{HEAD}\n1,2,3\n2,1\n3,0.5,x\n4,1,1\n", {"epoch": [1, 4], "loss": [2, 1], "val_loss": [3, 1]}),
        (f"{HEAD}\n1,2,3\n\0\0\0\n2,1,1\n", {"epoch": [1, 2], "loss": [2, 1], "val_loss": [3, 1]}),
        (f"{HEAD}\n1,2,3\n2,9,9\n2,1,1\n", {"epoch": [1, 2], "loss": [2, 1], "val_loss": [3, 1]}),
        ('epoch,"a,b"\n1,2\n', {"epoch": [1], "a,b": [2]}),
    ],
)
def test_reads_whole_rows_and_skips_the_rest(tmp_path, text, expected):
    (tmp_path / "metrics.csv").write_text(text, newline="")
    assert read_metrics(tmp_path) == expected


def test_empty_cells_are_nan_and_non_finite_values_are_kept(tmp_path):
    (tmp_path / "metrics.csv").write_text(f"{HEAD}\n1,nan,\n2,inf,1\n")
    metrics = read_metrics(tmp_path)
    assert math.isnan(metrics["loss"][0]) and math.isnan(metrics["val_loss"][0]) and math.isinf(metrics["loss"][1])


def test_no_file_is_no_columns(tmp_path):
    assert read_metrics(tmp_path) == {}


def test_any_truncation_gives_a_prefix_of_the_rows(tmp_path):
    text = f"{HEAD}\r\n" + "".join(f"{epoch},{1 / epoch},{2 / epoch}\r\n" for epoch in range(1, 6))
    (tmp_path / "metrics.csv").write_text(text, newline="")
    whole = read_metrics(tmp_path)
    for length in range(len(text)):
        (tmp_path / "metrics.csv").write_text(text[:length], newline="")
        for name, values in read_metrics(tmp_path).items():
            assert values == whole[name][: len(values)]
