import itertools
import json
import re

import numpy as np
import pytest

from nrm_keras.data import sources
from nrm_keras.data.duplicates import distinct
from nrm_keras.data.emails import words_of
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections import texts as text_sections

WORDS = [f"word{number}" for number in range(60)]


def objects(texts):
    return np.array(texts, dtype=object)


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def jaccard(one, other):
    one, other = shingles(one), shingles(other)
    return len(one & other) / len(one | other)


def variations(seed, count=40):
    """Random texts, and copies of them with some words changed: of every similarity between none and one."""
    rng = np.random.default_rng(seed)
    texts = [list(rng.choice(WORDS, rng.integers(1, 90))) for _ in range(count)]
    for text in list(texts):
        for changes in (1, 2, 3):
            copy = list(text)
            for place in rng.integers(0, len(copy), changes):
                copy[place] = str(rng.choice(WORDS))
            texts.append(copy + list(rng.choice(WORDS, rng.integers(0, 3))))
    return objects([" ".join(words) for words in texts])


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_is_what_comparing_every_pair_would_leave(seed):
    texts = variations(seed)
    keep, note = distinct(texts, np.zeros(len(texts), int))
    pairs = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if jaccard(texts[i], texts[j]) >= 0.8]
    group = list(range(len(texts)))
    for i, j in pairs:  # chains are one group, under its first text
        low, high = sorted((group[i], group[j]))
        group = [low if g == high else g for g in group]
    assert keep.tolist() == [group[i] == i for i in range(len(texts))]
    assert 10 < (~keep).sum() < len(texts) - 10 and "near-duplicates" in note


def test_duplicates_in_other_letters_and_punctuation():
    texts = objects(["A good film!", "a good -- film", "a bad film", "!!!", "???", "Übel war's", "übel war s"])
    keep, note = distinct(texts, np.zeros(7, int))
    assert keep.tolist() == [True, False, True, True, True, True, False]
    assert note.startswith("Removed before splitting: 2 duplicates and 0 near-duplicates") and "label" not in note


def test_contradictory_labels_leave_none_of_the_texts():
    keep, note = distinct(objects(["same", "other", "Same", "same"]), np.array([0, 1, 1, 0]))
    assert keep.tolist() == [False, True, False, False]
    assert "3 texts that repeat another but have another label" in note


def test_official_texts_stay_and_what_repeats_them_goes():
    texts, official = objects(["same", "other", "same", "same"]), np.array([False, False, True, True])
    assert distinct(texts, np.zeros(4, int), official)[0].tolist() == [False, True, True, True]


def test_no_text_at_all():
    keep, _ = distinct(objects([]), np.zeros(0, int))
    assert keep.shape == (0,)


@pytest.mark.parametrize(
    "source,expected",
    [
        ("Received: from a\nSubject: Hi\n there\nX-Spam: yes\n\nbody\n", "Hi there\nbody"),
        ("Subject: =?iso-8859-1?q?caf=E9?=\n\nx", "café\nx"),
        (
            "Subject: a\nContent-Transfer-Encoding: base64\nContent-Type: text/plain; charset=nonsense\n\naGk=\n",
            "a\nhi",
        ),
        (
            (
                "Subject: a\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n"
                "<style>p {}</style><p>shown</p>\n--b\nContent-Type: application/pdf\n\nbinary\n--b--\n"
            ),
            "a\nshown",
        ),
        ("Subject: a\nContent-Type: text/plain; charset=iso-8859-1\n\n\u20ac \u00e9", "a\n\u20ac \u00e9"),
        ("Subject: a\nContent-Transfer-Encoding: quoted-printable\n\nna=C3=AFve=\n!", "a\nnaïve!"),
        ("no headers at all", "no headers at all"),
        ("Subject: =?utf-8?b?broken\n\nx", "=?utf-8?b?broken\nx"),
        ("", ""),
    ],
)
def test_of_an_email_subject_and_body_are_left(source, expected):
    assert words_of(source) == expected


def text_file(path, **options):
    return sources.load(text_sections.TextFile(source="text_file", path=str(path), **options))


def rows(count=40):
    rng = np.random.default_rng(0)
    return [(" ".join(rng.choice(WORDS, 12)), ("yes", "no")[number >= count // 2]) for number in range(count)]


def test_a_csv_and_a_jsonl_file_of_ones_own(tmp_path):
    given = [(f'{text},\n"quoted" \u2028 line', label) for text, label in rows()]
    with open(tmp_path / "own.csv", "w", encoding="utf-8-sig", newline="") as file:
        import csv

        csv.writer(file).writerows([("review", "id", "stars"), *((text, 7, label) for text, label in given)])
    (tmp_path / "own.jsonl").write_text(
        "\n".join(json.dumps({"review": text, "stars": label}) for text, label in given) + "\n\n"
    )
    for name in ("own.csv", "own.jsonl"):
        examples = text_file(tmp_path / name, text="review", label="stars")
        assert examples.classes == ("no", "yes") and examples.is_text and examples.shape == ()
        splits = (examples.train, examples.validation, examples.test)
        assert [len(split) for split in splits] == [28, 4, 8]
        assert [np.bincount(split.labels).tolist() for split in splits] == [[14, 14], [2, 2], [4, 4]]
        found = [
            (text, examples.classes[label]) for s in splits for text, label in zip(s.inputs, s.labels, strict=True)
        ]
        assert sorted(found) == sorted(given)


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("x.csv", b"text,label\nfine,a\ncaf\xe9,b\n", r"x.csv:3: texts are UTF-8. Received: the byte 0xe9"),
        (
            "x.csv",
            b"review,label\nfine,a\n",
            r"x.csv:1: every row has text and label.*Received: review, label; no text",
        ),
        ("x.csv", b'text,label\n"two\nlines",a\n  ,b\n', r"x.csv:4: text must be a text with something in it"),
        ("x.csv", b"text,label\nfine,a\nno label\n", r"x.csv:3: every row has .* no label"),
        ("x.csv", b"text,label\nfine, \n", r"x.csv:2: label must name a class"),
        ("x.csv", b'text,label\n"never closed,a\n', r"x.csv:2: rows are comma-separated"),
        ("x.csv", b"text,label\none,a\ntwo,a\nthree,b\n", r"x.csv:4: a class needs two examples.*'b' once"),
        ("x.csv", b"text,label\none,a\ntwo,a\n", r"x.csv: label must name two classes at least. Received: a"),
        ("x.csv", b"", r"x.csv:1: every row has text and label. Received: none"),
        ("x.csv", b"text,label\n", r"x.csv: label must name two classes at least. Received: no rows"),
        (
            "x.jsonl",
            b'{"text": "a", "label": 1}\n{"text": \n',
            r"x.jsonl:2: each line is one JSON object.*'\{\"text\":'",
        ),
        ("x.jsonl", b'["a", 1]\n', r"x.jsonl:1: each line is one JSON object. Received: a list"),
        ("x.jsonl", b'\n{"text": "a"}\n', r"x.jsonl:2: every row has .* no label"),
        ("x.jsonl", b'{"text": 3, "label": 1}\n', r"x.jsonl:1: text must be a text with something in it. Received: 3"),
        ("x.jsonl", b'{"text": "a", "label": [1]}\n', r"x.jsonl:1: label must name a class"),
        ("x.jsonl", b'{"text": "\\ud800", "label": 1}\n', r"x.jsonl:1: text must be Unicode"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        text_file(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    data = text_sections.TextFile(source="text_file", path=str(tmp_path / "none.csv"))
    assert sources.find(data) is None
    with pytest.raises(UserError, match=r"needs a .csv or .jsonl file. Received: .*none.csv"):
        sources.require(data)
    with pytest.raises(UserError, match="none.csv: a readable file"):
        sources.load(data)


def counts(examples):
    return [np.bincount(split.labels).sum() for split in (examples.train, examples.validation, examples.test)]


@pytest.mark.parametrize(
    "section,classes,removed",
    [
        (text_sections.RottenTomatoes, [4265, 4265], (2, 0)),
        (text_sections.ImdbHalf, [12500, 12500], (98, 19)),
        (text_sections.Spam, [4150, 1896], (129, 581)),
    ],
)
def test_real_texts(real_data, section, classes, removed):
    name = section.model_fields["source"].annotation.__args__[0]
    examples = real_data(section(source=name))
    assert examples.notes[0].startswith(f"Removed before splitting: {removed[0]} duplicates and {removed[1]} near-dup")
    splits = (examples.train, examples.validation, examples.test)
    assert sum(map(len, splits)) == sum(classes) - sum(removed)
    assert examples.repeated() == {"validation": 0, "test": 0}
    share = classes[1] / sum(classes)
    for split in splits:
        assert split.labels.mean() == pytest.approx(examples.train.labels.mean(), abs=2e-3)
        assert split.labels.mean() == pytest.approx(share, abs=0.07)
        assert all(text.strip() for text in split.inputs)
