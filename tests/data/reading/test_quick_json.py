"""What the quick reader gives is what Python's json gives; whatever else it leaves to that one."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orpo_pipeline.data.reading.quick_json import quickly_parsed
from orpo_pipeline.data.reading.readers import ROW_DECODER

TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(['":', '" :', '\\":', "\\", '\\\\":', '"']))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
ROWS = st.dictionaries(TEXTS, VALUES, max_size=4)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])


@given(row=ROWS, separators=SEPARATORS, ascii_only=st.booleans())
@example(row={"a": 2**64, "b": -0.0, "c": 0}, separators=(",", ":"), ascii_only=True)
@example(row={"a": "\ud800"}, separators=(",", ":"), ascii_only=True)
def test_both_readers_agree(row: Any, separators: tuple[str, str], ascii_only: bool) -> None:
    text = json.dumps(row, separators=separators, ensure_ascii=ascii_only)
    quick = quickly_parsed(text.encode("utf-8", "surrogatepass"))
    # repr tells 1 from 1.0 and from True, 0.0 from -0.0, and takes NaN for equal to itself.
    assert quick is None or repr(quick) == repr(ROW_DECODER.decode(text))


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2}',
        b'{"a":1,"b":{"c":1,"c":1}}',
        rb'{"a\\":1,"b":1,"b":2}',  # a key that ends with a backslash hides one of the ends
        rb'{"a":"\":","b":1,"b":2}',
        b'{"a":18446744073709551616}',
        b'{"a":NaN}',
        rb'{"a":"\ud800"}',
        b"[1]",
        b'{"a":1} 2',
        b'{"a":"\xff"}',
    ],
)
def test_a_line_that_may_be_read_otherwise_is_left_to_the_slow_reader(line: bytes) -> None:
    assert quickly_parsed(line) is None


def test_a_usual_row_is_read_at_once() -> None:
    line = rb' {"prompt": "Say \"x\": why?", "n": [{"content": "a", "score": -1.5}]}' + b"\r"
    expected = {"prompt": 'Say "x": why?', "n": [{"content": "a", "score": -1.5}]}
    assert quickly_parsed(line) == expected
