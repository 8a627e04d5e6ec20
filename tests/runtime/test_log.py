"""Files of JSON lines: rows are read back, and a truncated line does not affect others."""

from pathlib import Path

import pytest

from limner.runtime.log import append_line, line, read_lines

ROWS = [{"step": 1, "loss": 0.5}, {"name": "zwölf\u2028Bilder"}, {"step": 3}]


def test_rows_are_read_back_one_per_line(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    assert read_lines(file) == []
    for row in ROWS:
        append_line(file, row)
    assert read_lines(file) == ROWS
    assert file.read_text(encoding="utf-8") == "".join(map(line, ROWS))


@pytest.mark.parametrize("kept", range(1, len(line(ROWS[0]))))
def test_a_truncated_line_is_skipped_and_the_next_starts_a_new_line(tmp_path: Path, kept: int):
    file = tmp_path / "rows.jsonl"
    file.write_text(line(ROWS[2]) + line(ROWS[0])[:kept])
    append_line(file, ROWS[1])
    complete = [ROWS[0]] if kept == len(line(ROWS[0])) - 1 else []
    assert read_lines(file) == [ROWS[2], *complete, ROWS[1]]


def test_a_line_truncated_inside_a_character_does_not_affect_others(tmp_path: Path):
    file, text = tmp_path / "rows.jsonl", line(ROWS[1]).encode()
    file.write_bytes(line(ROWS[0]).encode() + text[: text.index("ö".encode()) + 1])
    append_line(file, ROWS[2])
    assert read_lines(file) == [ROWS[0], ROWS[2]]


def test_values_that_json_cannot_express_are_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "rows.jsonl", {"loss": float("nan")})
    assert read_lines(tmp_path / "rows.jsonl") == []
