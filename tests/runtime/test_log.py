"""Files of JSON lines: what was written is read, and what was cut harms no other line."""

from pathlib import Path

import pytest

from limner.runtime.log import append_line, line, read_lines

ROWS = [{"step": 1, "loss": 0.5}, {"name": "zwölf\u2028Bilder"}, {"step": 3}]


def test_rows_come_back_one_a_line(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    assert read_lines(file) == []
    for row in ROWS:
        append_line(file, row)
    assert read_lines(file) == ROWS
    assert file.read_text(encoding="utf-8") == "".join(map(line, ROWS))


@pytest.mark.parametrize("kept", range(1, len(line(ROWS[0]))))
def test_a_line_that_was_cut_is_left_out_and_the_next_stands_by_itself(tmp_path: Path, kept: int):
    file = tmp_path / "rows.jsonl"
    file.write_text(line(ROWS[2]) + line(ROWS[0])[:kept])
    append_line(file, ROWS[1])
    whole = [ROWS[0]] if kept == len(line(ROWS[0])) - 1 else []
    assert read_lines(file) == [ROWS[2], *whole, ROWS[1]]


def test_a_line_that_was_cut_within_a_letter_harms_no_other(tmp_path: Path):
    file, text = tmp_path / "rows.jsonl", line(ROWS[1]).encode()
    file.write_bytes(line(ROWS[0]).encode() + text[: text.index("ö".encode()) + 1])
    append_line(file, ROWS[2])
    assert read_lines(file) == [ROWS[0], ROWS[2]]


def test_what_json_has_no_word_for_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "rows.jsonl", {"loss": float("nan")})
    assert read_lines(tmp_path / "rows.jsonl") == []
