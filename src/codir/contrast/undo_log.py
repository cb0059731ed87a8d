"""What rows held before they were overwritten, so that a file that changes in place can go back to a checkpoint."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from codir.errors import RunError

_MAGIC = b"CODIRUN1"
_FILE = struct.Struct("<8sQQQI")  # magic, step, updates before the first record, bytes of a row, checksum
_RECORD = struct.Struct("<QQI")  # number of the update, rows, checksum of both and of what follows
_ID_BYTES = 8


class LogHead(NamedTuple):
    """The beginning of a log.

    Attributes:
        step: the checkpoint that the log leads back to.
        updates: how often the rows had been updated when it was begun.
        row_bytes: length of a row.
    """

    step: int
    updates: int
    row_bytes: int


class UndoLog:
    """The log that begins at one checkpoint: one record for each update of the rows since.

    A record holds the ids and the rows before the update and is written *before* the rows are. It has a length and
    a checksum: if the process is killed while writing it, it is recognised as torn, and the rows had not been touched.
    """

    def __init__(self, folder: Path, step: int, updates: int, row_bytes: int):
        """Begins the log of `step`, in place of one there may be; whole or not at all."""
        self.step, self.updates = step, updates
        self._path = log_path(folder, step)
        head = _FILE.pack(_MAGIC, step, updates, row_bytes, 0)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(head[:-4] + struct.pack("<I", zlib.crc32(head[:-4])))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))

    def append(self, ids: Tensor, rows: Tensor) -> None:
        """Adds a record: ids [B] and the rows [B, m] before the update. [0] and [0, m] only count the update.

        Raises:
            RunError: the disk is full; the log is as it was before.
        """
        content = ids.to(torch.int64).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        content += rows.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        number = self.updates + 1
        checksum = zlib.crc32(content, zlib.crc32(struct.pack("<QQ", number, ids.numel())))
        record = memoryview(_RECORD.pack(number, ids.numel(), checksum) + content)
        end = os.fstat(self._file).st_size
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._path, end)
            raise RunError(
                f"{self._path} could not be written: {error.strerror or error}. Free some space on its disk, then the "
                "same command with --resume goes on from the last checkpoint."
            ) from error
        self.updates = number

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def log_path(folder: Path, step: int) -> Path:
    """Names the log of a checkpoint."""
    return folder / f"undo-{step}.log"


def log_steps(folder: Path) -> list[int]:
    """Lists the checkpoints that have a log, oldest first."""
    names = [path.name.removeprefix("undo-").removesuffix(".log") for path in folder.glob("undo-*.log")]
    return sorted(int(name) for name in names if name.isdigit())


def read_head(folder: Path, step: int) -> LogHead:
    """Reads the beginning of the log of `step`.

    Raises:
        RunError: it is damaged.
    """
    path = log_path(folder, step)
    with open(path, "rb") as file:
        head = file.read(_FILE.size)
    if len(head) == _FILE.size:
        magic, own_step, updates, row_bytes, checksum = _FILE.unpack(head)
        if magic == _MAGIC and own_step == step and checksum == zlib.crc32(head[:-4]):
            return LogHead(step, updates, row_bytes)
    raise RunError(f"{path} is damaged: the memory bank cannot go back to a checkpoint. Start a new run.")


def whole_records(folder: Path, step: int) -> list[tuple[int, int]]:
    """Lists (position, rows) of the whole records of a log, oldest first, up to the first torn one."""
    head = read_head(folder, step)
    found: list[tuple[int, int]] = []
    with open(log_path(folder, step), "rb") as file:
        end = os.fstat(file.fileno()).st_size
        position = file.seek(_FILE.size)
        while len(start := file.read(_RECORD.size)) == _RECORD.size:
            number, count, checksum = _RECORD.unpack(start)
            size = count * (_ID_BYTES + head.row_bytes)
            if number != head.updates + len(found) + 1 or size > end - file.tell():
                break
            if zlib.crc32(file.read(size), zlib.crc32(struct.pack("<QQ", number, count))) != checksum:
                break
            found.append((position, count))
            position = file.tell()
    return found


def undo(folder: Path, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Gives ids [B] and the bytes [B, row_bytes] (uint8) that the rows held, newest record first."""
    head = read_head(folder, step)
    records = whole_records(folder, step)
    with open(log_path(folder, step), "rb") as file:
        for position, count in reversed(records):
            if not count:
                continue
            file.seek(position + _RECORD.size)
            ids = torch.frombuffer(bytearray(file.read(count * _ID_BYTES)), dtype=torch.int64)
            rows = torch.frombuffer(bytearray(file.read(count * head.row_bytes)), dtype=torch.uint8)
            yield ids, rows.view(count, head.row_bytes)
