"""Files of R, written as R's manual "R Internals" describes its serialization (section 1.8)."""

import struct

NULL, GLOBAL = struct.pack(">i", 254), struct.pack(">i", 253)
_SYMBOL, _PAIR, _ENVIRONMENT, _CHAR, _INT, _REAL, _STR, _LIST, _S4 = 1, 2, 4, 9, 13, 14, 16, 19, 25


def item(kind, content, attributes=None, is_object=False):
    flags = kind | is_object << 8 | (attributes is not None) << 9
    if kind == _S4:
        return struct.pack(">i", flags | 1 << 16) + pairs(attributes)
    return struct.pack(">i", flags) + content + (pairs(attributes) if attributes is not None else b"")


def char(text):
    return struct.pack(">ii", _CHAR | 64 << 12, len(text)) + text.encode()


def pairs(values):
    tag = struct.pack(">i", _PAIR | 1 << 10)
    return b"".join(tag + struct.pack(">i", _SYMBOL) + char(name) + value for name, value in values.items()) + NULL


def vector(kind, parts, **options):
    return item(kind, struct.pack(">i", len(parts)) + b"".join(parts), **options)


def text(*values):
    return vector(_STR, [char(value) for value in values])


def numbers(values, **options):
    return vector(_REAL, [struct.pack(">d", value) for value in values], **options)


def integers(values, **options):
    return vector(_INT, [struct.pack(">i", value) for value in values], **options)


def expression_set(values, cancer, batch):
    """What R's save() writes for a Biobase ExpressionSet, reduced to the slots with content; values: genes by samples."""
    genes, names = [f"gene{i}" for i in range(len(values))], [f"s{i}" for i in range(values.shape[1])]
    dimensions = {"dim": integers(values.shape), "dimnames": vector(_LIST, [text(*genes), text(*names)])}
    table = vector(_LIST, [pairs({"exprs": numbers(values.T.ravel(), attributes=dimensions)})])
    assays = struct.pack(">ii", _ENVIRONMENT, 0) + GLOBAL + NULL + table + NULL
    levels = sorted(set(cancer))
    factor = integers(
        [1 + levels.index(name) for name in cancer],
        attributes={"levels": text(*levels), "class": text("factor")},
        is_object=True,
    )
    frame = vector(
        _LIST,
        [numbers(batch), factor],
        attributes={"names": text("batch", "cancer"), "row.names": text(*names), "class": text("data.frame")},
        is_object=True,
    )
    about = item(_S4, b"", {"data": frame, "class": text("AnnotatedDataFrame")}, True)
    slots = {"assayData": assays, "phenoData": about, "class": text("ExpressionSet")}
    return item(_S4, b"", slots, True)


def write_samples(path, values, cancer=("Cancer", "Normal", "Biopsy"), batch=(3, 2, 2), name="bladderEset"):
    content = pairs({name: expression_set(values, cancer, batch)})
    path.write_bytes(b"RDX2\nX\n" + struct.pack(">iii", 2, 0x030200, 0x020300) + content)
    return path
