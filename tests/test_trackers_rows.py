"""What all gaze readers share: damage-proof tables, JSON lines and gzip, and the last step into house units."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazeqwen.errors import InputError
from stream.trackers.base import ReadOptions, finish, finish_fixations
from stream.trackers.rows import Table, gunzip, number, read_json_lines, read_table, text_lines

CELL = st.text(st.characters(exclude_characters=',"\r\n', exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda text: text.strip() == text and "\ufeff" not in text
)


@given(st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_table_reads_what_the_csv_module_writes(tmp_path_factory, rows: list[list[str]], end: str) -> None:
    file = tmp_path_factory.mktemp("table") / "t.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, lineterminator=end).writerows([["a", "b", "c"], *rows])
    table = read_table(file)
    assert table.header == ("a", "b", "c") and not table.ragged.any()
    assert [table.texts(name) for name in "abc"] == [list(column) for column in zip(*rows, strict=True)]


def test_table_keeps_unreadable_rows_in_their_place(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b'\n a , b \n1,2\n\n3\n"4","5"\n6,7,,\n8,9,10\n1_0,\xff\n,"x\n' + b"7" * 200_000 + b",1\n")
    table = read_table(file)
    values, unreadable = table.floats("a")
    assert table.header == ("a", "b")
    assert table.ragged.tolist() == [False, True, False, False, True, False, True, False]
    assert unreadable.tolist() == [False, True, False, False, True, True, True, False]
    np.testing.assert_array_equal(values, [1, np.nan, 4, 6, np.nan, np.nan, np.nan, np.inf])
    with pytest.raises(InputError, match="column 'c'"):
        table.floats("c")


@given(st.integers(1_500_000_000 * 10**9, 1_900_000_000 * 10**9), st.integers(-(10**13), 10**13))
def test_ticks_are_subtracted_as_integers(zero: int, difference: int) -> None:
    table = Table(Path("t"), ("t",), [[str(zero + difference)], [""], None, ["x"], [str(10**400)]])
    values, unreadable = table.seconds_since("t", zero_tick=zero, ticks_per_s=10**9)
    assert values[0] == difference / 10**9
    assert np.isnan(values[1:4]).all() and np.isinf(values[4])
    assert unreadable.tolist() == [False, False, True, True, False]


@given(st.binary(max_size=4000), st.integers(0, 100))
def test_truncated_gzip_gives_a_prefix_and_says_so(data: bytes, percent: int) -> None:
    packed = gzip.compress(data, mtime=0)
    cut = packed[: max(1, len(packed) * percent // 100)]
    part, truncated = gunzip(cut)
    assert data.startswith(part) and truncated == (len(cut) < len(packed))
    assert gunzip(packed + packed) == (data + data, False), "members concatenate"


def test_damage_inside_gzip_keeps_what_precedes_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"i": i, "v": rng.random(4).tolist()}) for i in range(500)]
    packed = bytearray(gzip.compress("\n".join(lines).encode(), mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    file = tmp_path / "lines.gz"
    file.write_bytes(bytes(packed))
    read = read_json_lines(file)
    assert read.truncated and len(read) > 100
    assert [item for item in read.objects[:100] if item] == [json.loads(line) for line in lines[:100]]
    file.write_bytes(bytes(packed[:11]))
    with pytest.raises(InputError, match="gzip"):
        read_json_lines(file)


def test_json_lines_keep_the_place_of_what_is_no_object(tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n[1]\n' + b"[" * 100_000 + b'\n{"a": ' + b"9" * 5000 + b"}\n{}")
    assert read_json_lines(file).objects == [{"a": 1}, None, None, None, {}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (10**400, math.inf), (-(10**400), -math.inf), (True, None), ("1", None)],
)
def test_number_takes_json_numbers_only(value: object, expected: float | None) -> None:
    assert math.isnan(number(value)) if expected is None else number(value) == expected


def test_text_lines_take_any_line_end_and_bad_bytes() -> None:
    assert text_lines(b"\xef\xbb\xbfa\r\nb\rc\nd\xff\x00\xe2\x80\xa8e") == ["a", "b", "c", "d\ufffd\x00\u2028e"]


def test_finish_refuses_what_only_the_caller_can_know_and_a_file_without_a_readable_row() -> None:
    path, xy = Path("f"), np.full((3, 2), 0.25)
    with pytest.raises(InputError, match=r"y_origin='top' or 'bottom'.*gaze check"):
        finish(path, "x", ReadOptions(), t_s=np.arange(3.0), xy=xy, y_origin=None)
    with pytest.raises(InputError, match="3 rows, none of them readable"):
        finish(path, "x", ReadOptions(), t_s=np.arange(3.0), xy=xy, y_origin="top", unreadable=np.ones(3, dtype=bool))
    recording = finish(path, "x", ReadOptions(y_origin="bottom"), t_s=np.arange(3.0), xy=xy, y_origin=None)
    assert recording.samples.xy_norm[:, 1].tolist() == [0.75] * 3


def test_finish_marks_implausible_numbers_and_confidence() -> None:
    recording = finish(
        Path("f"),
        "x",
        ReadOptions(),
        t_s=np.array([0.0, 1.0, 2.0, 3.0, 1e300]),
        xy=np.array([[0.5, 0.5], [1e300, 0.5], [1.5, -0.5], [0.5, 0.5], [0.5, 0.5]]),
        y_origin="top",
        confidence=np.array([0.59, 1.0, 0.6, 7.0, 1.0]),
        min_confidence=0.6,
        counts={"rows_other": 4},
    )
    samples = recording.samples
    assert samples.valid.tolist() == [False, False, True, False]
    assert samples.in_frame.tolist() == [False] * 4, "past the edge is valid, but not in the frame"
    assert samples.counts["rows_read"] == 9 and samples.counts["rows_bad_time"] == 1


def test_fixations_that_can_not_be_are_left_out_and_counted() -> None:
    fixations = finish_fixations(
        Path("f"),
        ReadOptions(offset_s=1.0),
        start_s=np.array([3.0, 0.0, 1.0, 0.0, 0.0]),
        stop_s=np.array([4.0, 0.5, 0.5, np.nan, 1.0]),
        xy=np.array([[0.5, 0.5], [0.1, 0.2], [0.5, 0.5], [0.5, 0.5], [np.nan, 0.5]]),
        y_origin="top",
        unreadable=np.array([True, False, False, False, False]),
    )
    assert fixations.start_s.tolist() == [1.0] and fixations.ids.tolist() == [1]
    assert fixations.counts == {"rows_read": 5, "rows_unreadable": 1, "rows_bad_time": 2, "rows_no_position": 1}
