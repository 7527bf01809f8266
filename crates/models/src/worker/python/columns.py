# Second part: rows as they come from the gateway, already checked against the signature.

# PREDICT_COLUMNS: `u32 parts | u32 rows of each part | u32 length of the layout | layout | padding to 8 | columns`.
# The layout is JSON: `{"names": [...], "types": "ddqs", "width": n or absent, "params": {...} or absent}`. A column
# holds the rows of all parts one after the other, as numbers in little-endian bytes, padded to the size of one; text
# is `u32 length | JSON list`. With `width` it is one tensor, row by row.
TYPES = {"d": "<f8", "f": "<f4", "q": "<i8", "i": "<i4", "b": "|b1"}


class Layout:
    """How a body is read; one is kept for each layout that was seen."""

    def __init__(self, text):
        import numpy
        import pandas

        self.numpy, self.pandas = numpy, pandas
        layout = json.loads(text)
        self.params = layout.get("params")
        self.width = layout.get("width")
        self.types = [numpy.dtype(TYPES[letter]) if letter in TYPES else None for letter in layout["types"]]
        self.names = layout.get("names", [])
        self.index = pandas.Index(self.names)
        first = self.types[0]
        # Columns of one type are one block: a tenth of the cost of columns one by one.
        self.block = first if first is not None and all(kind == first for kind in self.types) else None

    def read(self, payload, at, rows):
        numpy, pandas = self.numpy, self.pandas
        if self.width is not None:
            return numpy.frombuffer(payload, self.block, rows * self.width, at).reshape(rows, self.width)
        if self.block is not None:
            count = len(self.types)
            block = numpy.frombuffer(payload, self.block, rows * count, at).reshape(count, rows)
            return pandas.DataFrame(block.T, columns=self.index, copy=False)
        columns = {}
        for name, kind in zip(self.names, self.types):
            if kind is None:
                (length,) = U32.unpack_from(payload, at)
                columns[name] = json.loads(payload[at + 4 : at + 4 + length])
                at += 4 + length
            else:
                at += -at % kind.itemsize
                columns[name] = numpy.frombuffer(payload, kind, rows, at)
                at += kind.itemsize * rows
        return pandas.DataFrame(columns, copy=False)


class Layouts:
    """The layouts seen, a few of them."""

    def __init__(self):
        self.known = {}

    def read(self, payload):
        """What the model gets, its params, and the rows of each part."""
        (count,) = U32.unpack_from(payload)
        rows = struct.unpack_from(f"<{count}I", payload, 4)
        at = 4 + 4 * count
        (length,) = U32.unpack_from(payload, at)
        text = bytes(payload[at + 4 : at + 4 + length])
        layout = self.known.get(text)
        if layout is None:
            if len(self.known) >= 64:
                self.known.clear()
            layout = self.known[text] = Layout(text)
        at += 4 + length
        return layout.read(payload, at + -at % 8, sum(rows)), layout.params, rows


def split(answer, rows):
    """The answers of the parts of one call; None when the answer does not have a row for each of theirs."""
    total = sum(rows)
    ends = []
    end = 0
    for count in rows:
        ends.append((end, end + count))
        end += count
    if isinstance(answer, list) and len(answer) == total:
        return [answer[start:end] for start, end in ends]
    if isinstance(answer, dict) and answer and all(isinstance(v, list) and len(v) == total for v in answer.values()):
        return [{name: value[start:end] for name, value in answer.items()} for start, end in ends]
    return None
