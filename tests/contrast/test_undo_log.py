"""Records come back newest first; torn ones, at whatever byte, are as if they had never been begun."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from codir.contrast import undo_log
from codir.contrast.undo_log import UndoLog, log_path, log_steps, read_head, undo, whole_records
from codir.errors import RunError

ROWS = torch.arange(12, dtype=torch.float16).view(4, 3)


def write(folder: Path, step: int = 7) -> list[int]:
    """Returns the size of the file after each of three records."""
    log = UndoLog(folder, step, updates=5, row_bytes=6)
    sizes = [log_path(folder, step).stat().st_size]
    for ids in ([2, 0], [], [1]):
        log.append(torch.tensor(ids, dtype=torch.long), ROWS[torch.tensor(ids, dtype=torch.long)])
        sizes.append(log_path(folder, step).stat().st_size)
    assert log.updates == 8
    log.close()
    return sizes


def contents(folder: Path, step: int = 7) -> list[tuple[list[int], list[list[float]]]]:
    return [(ids.tolist(), rows.view(torch.float16).tolist()) for ids, rows in undo(folder, step)]


def test_newest_record_first(tmp_path: Path) -> None:
    sizes = write(tmp_path)
    assert contents(tmp_path) == [([1], [[3, 4, 5]]), ([2, 0], [[6, 7, 8], [0, 1, 2]])]
    assert read_head(tmp_path, 7) == (7, 5, 6)
    assert [count for _, count in whole_records(tmp_path, 7)] == [2, 0, 1]
    assert sizes[1] - sizes[0] == 20 + 2 * (8 + 6)  # 20 bytes for a record, whatever its length
    UndoLog(tmp_path, 7, updates=1, row_bytes=6).close()  # begun anew
    assert contents(tmp_path) == []
    UndoLog(tmp_path, 30, updates=1, row_bytes=6).close()
    assert log_steps(tmp_path) == [7, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["undo-30.log", "undo-7.log"]


def test_a_torn_record_is_ignored_at_every_byte(tmp_path: Path) -> None:
    sizes = write(tmp_path)
    path = log_path(tmp_path, 7)
    whole = path.read_bytes()
    for size in range(sizes[0], sizes[-1]):
        path.write_bytes(whole[:size])
        expected = sum(size >= end for end in sizes[1:])
        assert len(whole_records(tmp_path, 7)) == expected
    for size in range(sizes[2], sizes[3]):  # written, but not with what it should hold
        for garbage in (0, whole[size] ^ 1):
            path.write_bytes(whole[:size] + bytes([garbage]) + whole[size + 1 :])
            if whole[size] != garbage:
                assert len(whole_records(tmp_path, 7)) == 2
    path.write_bytes(whole[: sizes[2]] + b"\xff" * 4096)  # lengths that make no sense
    assert len(whole_records(tmp_path, 7)) == 2


def test_a_damaged_head_is_named(tmp_path: Path) -> None:
    sizes = write(tmp_path)
    path = log_path(tmp_path, 7)
    whole = path.read_bytes()
    for content in (b"", whole[: sizes[0] - 1], b"x" + whole[1:], whole[:17] + b"\x09" + whole[18:]):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"undo-7\.log is damaged"):
            read_head(tmp_path, 7)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = UndoLog(tmp_path, 0, updates=0, row_bytes=6)
    log.append(torch.tensor([1]), ROWS[:1])
    before = log_path(tmp_path, 0).read_bytes()
    genuine, calls = os.write, []

    def half(file: int, content: memoryview) -> int:
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return genuine(file, content[: len(content) // 2])

    monkeypatch.setattr(undo_log.os, "write", half)
    with pytest.raises(RunError, match=r"undo-0\.log could not be written: No space left.*--resume"):
        log.append(torch.tensor([2, 3]), ROWS[:2])
    monkeypatch.undo()
    assert len(calls) == 2
    assert log_path(tmp_path, 0).read_bytes() == before
    log.append(torch.tensor([2, 3]), ROWS[:2])
    assert len(whole_records(tmp_path, 0)) == 2
    log.close()
