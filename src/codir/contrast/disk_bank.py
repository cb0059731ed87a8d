"""A bank in one file that is mapped into memory: as large as the disk, and exact when a run is resumed."""

from __future__ import annotations

import mmap
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, distributed

from codir.contrast.bank import Bank
from codir.contrast.undo_log import UndoLog, log_path, log_steps, read_head, undo, whole_records
from codir.errors import RunError
from codir.gather import processes
from codir.storage import human_bytes, read_json, require_disk, write_json

HEAD, ROWS = "bank.json", "rows.bin"
_FORMAT = 1
_ID_BYTES = 8
_FINGERPRINT = ("rows", "length of a row", "bytes of a number", "seed", "training data", "updates")


class DiskBank(Bank):
    """A lazy bank (see `Bank`) in the file `rows.bin`, mapped into memory; `bank.json` beside it says whose it is.

    The file is sparse: it is made at once whatever N is, and takes up disk only where rows have been written. Only
    the pages with the rows of a batch are read or written.

    **Resuming.** The rows are not copied into checkpoints. Instead, what they held is appended to a log
    (`undo-STEP.log`, `codir.contrast.undo_log`) before they are overwritten; `checkpoint_saved` begins a new log and
    `rewind` undoes what came after a checkpoint. After a kill at any moment the rows are those of the checkpoint bit
    for bit. A checkpoint itself holds a small fingerprint by which `load_state` sees that it belongs to these rows.

    **A power loss is not a kill.** The rows and the logs are brought to the disk at checkpoints only, because waiting
    for the disk at each step would be slow. If the machine itself stops (power, kernel), rows written since the last
    checkpoint may be on the disk while the log that undoes them is not: the resumed run then starts with some rows a
    few steps newer than the checkpoint, or refuses because the log is damaged. Rows are never mixed with other rows'
    and weights are not concerned.

    **Several processes.** All processes of a machine map one file. The first of them (`LOCAL_RANK` 0) writes it, and
    all meet at a barrier before anyone reads; the others must call the same methods. Every other machine
    (`GROUP_RANK`) has a folder of its own, so that machines that share a file system do not write into one file.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int,
        dim: int,
        momentum: float = 0.5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        data_key: str | None = None,
    ):
        """Opens the bank in `folder`, or makes it there.

        Args:
            folder: for this bank alone; made if missing.
            size: N, the number of rows.
            dim: m, the length of a row.
            momentum: beta in [0, 1): how much of the old row is kept.
            seed: seeds the rows at the start.
            dtype: how they are stored; updates are computed in fp32.
            data_key: fingerprint of the training data.

        Raises:
            RunError: the folder holds a bank of other data, of another size, or a truncated one; or the disk has
                not enough space for all rows.
        """
        folder = Path(folder)
        self.folder = folder if machine() == 0 else folder.with_name(f"{folder.name}-machine{machine()}")
        self._writes = local_rank() == 0
        self._log: UndoLog | None = None
        self._updates = 0
        nbytes = size * dim * dtype.itemsize
        head = {
            "format": _FORMAT,
            "rows": size,
            "dim": dim,
            "dtype": str(dtype).removeprefix("torch."),
            "seed": seed,
            "data_key": data_key,
        }
        self._expected = [size, dim, dtype.itemsize, seed, zlib.crc32((data_key or "").encode())]
        old = self._check(head, nbytes)  # by every process, before the first one makes anything
        barrier()
        if self._writes and not old:
            self._make(head, nbytes)
        barrier()
        with open(
            self.folder / ROWS, "r+b"
        ) as file:  # a shared mapping in every process, also where it only reads
            self._map = mmap.mmap(file.fileno(), nbytes)
        self._advise("MADV_RANDOM")  # rows are visited in random order: reading ahead would be wasted
        super().__init__(torch.frombuffer(self._map, dtype=dtype).view(size, dim), momentum, seed)

    # ---- opening -----------------------------------------------------------------------------------------------

    def _check(self, head: dict[str, object], nbytes: int) -> bool:
        """Says whether the folder holds this bank; refuses one that is another or damaged."""
        rows, path = self.folder / ROWS, self.folder / HEAD
        old = path.is_file()
        if old:
            found = read_json(path)
            way_out = f"Choose another output folder, or delete {self.folder} and start a new run."
            if not isinstance(found, dict) or found.get("format") != _FORMAT:
                raise RunError(f"{path} is no memory bank that this version of codir can read. {way_out}")
            if found.get("data_key") != head["data_key"]:
                raise RunError(f"The memory bank in {self.folder} belongs to other training data. {way_out}")
            for name in ("rows", "dim", "dtype", "seed"):
                if found.get(name) != head[name]:
                    raise RunError(
                        f"The memory bank in {self.folder} was made with {name}={found.get(name)}, this run has "
                        f"{name}={head[name]}. {way_out}"
                    )
            size = rows.stat().st_size if rows.is_file() else 0
            if size != nbytes:
                raise RunError(
                    f"The memory bank's file {rows} is truncated: it has {size:,} bytes instead of {nbytes:,}. "
                    f"{way_out}"
                )
        there = rows.stat() if rows.is_file() else None
        allocated = getattr(there, "st_blocks", 0) * 512 if old else 0
        what = f"The memory bank of {head['rows']:,} x {head['dim']} {head['dtype']}"
        require_disk(self.folder, max(0, nbytes - allocated), what)
        return old

    def _make(self, head: dict[str, object], nbytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget(log_steps(self.folder))
        with open(self.folder / ROWS, "wb") as file:
            file.truncate(nbytes)
        self._log = self._begin_log(0)
        write_json(self.folder / HEAD, head)  # last: without it the rest counts as not there

    def _begin_log(self, step: int) -> UndoLog:
        dim, item = self._expected[1:3]
        return UndoLog(self.folder, step, self._updates, dim * item)

    def _advise(self, name: str, start: int = 0, length: int = 0) -> None:
        if hasattr(mmap, name):
            self._map.madvise(getattr(mmap, name), start, length or len(self._map))

    @property
    def place(self) -> str:
        """Where the rows lie, in words."""
        return f"disk ({self.folder})"

    # ---- reading and writing -----------------------------------------------------------------------------------

    def chunk(self, start: int, stop: int) -> Tensor:
        """[stop - start, m] rows start..stop-1 as they are stored, for a pass over all. Not to be written to."""
        row = self.dim * self.data.element_size()
        first = start * row // mmap.PAGESIZE * mmap.PAGESIZE
        last = min(stop, self.size) * row
        if last > first:
            self._advise("MADV_WILLNEED", first, last - first)
        return super().chunk(start, stop)

    def update(self, ids: Tensor, embeddings: Tensor, momentum: float | None = None) -> None:
        """As `Bank.update`; every process calls it with the same rows.

        Raises:
            RunError: the disk is full. Nothing has been written then.
        """
        if self._writes:
            super().update(ids, embeddings, momentum)
        self._updates += 1
        barrier()  # nobody reads rows that are half written

    def _store(self, ids: Tensor, before: Tensor, after: Tensor) -> None:
        if self._log is None:
            raise RuntimeError(
                f"rewind() says where the bank in {self.folder} goes on; call it before update()"
            )
        self._require_space(len(ids))
        # Going back to the start needs no rows: they are all unvisited there.
        undone = slice(0, 0) if self._log.step == 0 else slice(None)
        self._log.append(ids[undone], before[undone])
        super()._store(ids, before, after)

    def _require_space(self, rows: int) -> None:
        """Raises where the file system could not give pages for the rows: it would kill the process, not say so."""
        row = self.dim * self.data.element_size()
        pages = 1 + -(-row // mmap.PAGESIZE)
        needed = rows * (pages * mmap.PAGESIZE + row + _ID_BYTES) + (1 << 20)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise RunError(
                f"The disk of the memory bank {self.folder} is full ({human_bytes(free)} free). Free some space, then "
                "the same command with --resume goes on from the last checkpoint."
            )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """A fingerprint of the bank and of how often it has been updated; the rows stay where they are."""
        return {"fingerprint": torch.tensor([*self._expected, self._updates])}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Checks that the rows, rewound, are those of the checkpoint.

        Raises:
            RunError: they are not, or the checkpoint's bank was in memory.
        """
        if "fingerprint" not in state:
            raise RunError(
                "The checkpoint holds the rows of a memory bank in memory, and this run's bank is on disk: resume "
                "with bank_storage=cpu, or start a new run."
            )
        found, expected = state["fingerprint"].tolist(), [*self._expected, self._updates]
        for name, saved, own in zip(_FINGERPRINT, found, expected, strict=True):
            if saved != own:
                raise RunError(
                    f"The memory bank in {self.folder} is not the checkpoint's ({name}: {own:,}, there {saved:,}): it "
                    "was replaced, or a run has gone on from an older checkpoint since. Resume from that one, or start "
                    "a new run in another folder."
                )

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """Brings the rows to the disk, begins the log of `step`, and drops logs no checkpoint in `kept` needs."""
        if not self._writes:
            return
        if self._log is None or self._log.step != step:
            self._map.flush()
            if self._log is not None:
                self._log.close()
            self._log = self._begin_log(step)
        self._forget(old for old in log_steps(self.folder) if old < min([*kept, step]))

    def rewind(self, step: int) -> None:
        """Makes the rows those of the checkpoint of `step`, bit for bit; 0 makes every row unvisited.

        It can be interrupted anywhere and called again.

        Raises:
            RunError: the logs do not reach back to that checkpoint.
        """
        known = self._reaching_back_to(step) if step else []
        barrier()  # every process has looked before the first one changes anything
        if step:
            self._updates = _updates_at(self.folder, step, known)
        else:
            self._updates = 0
        barrier()
        if self._writes:
            if self._log is not None:
                self._log.close()
            if step:
                self._undo(known)
                self._forget(later for later in log_steps(self.folder) if later > step)
            elif self._log is None or self._log.updates:  # else it was made just now
                self._forget(log_steps(self.folder))
                self._wipe()
            self._log = self._begin_log(step)
        barrier()

    def _forget(self, logs: Iterable[int]) -> None:
        for step in sorted(logs, reverse=True):
            log_path(self.folder, step).unlink()

    def _reaching_back_to(self, step: int) -> list[int]:
        """The logs to undo, oldest first."""
        logs = log_steps(self.folder)
        # Killed between a checkpoint's seal and the beginning of its log, the rows are just that checkpoint's.
        untouched = bool(logs) and logs[-1] < step
        if step not in logs and not untouched:
            reach = f"it can go back to {', '.join(map(str, logs))}" if logs else "it was made anew"
            raise RunError(
                f"The memory bank in {self.folder} cannot go back to the checkpoint of step {step}: {reach}. Resume "
                "from a newer checkpoint, or start a new run in another folder."
            )
        later = [number for number in logs if number >= step]
        for number, following in pairwise(later):
            reached = read_head(self.folder, number).updates + len(whole_records(self.folder, number))
            if reached != read_head(self.folder, following).updates:
                raise RunError(
                    f"{log_path(self.folder, number)} is damaged: the memory bank cannot go back to step {step}. "
                    "Resume from a newer checkpoint, or start a new run in another folder."
                )
        return later

    def _undo(self, logs: list[int]) -> None:
        stored = self.data.view(torch.uint8)
        for number in reversed(logs):
            for ids, rows in undo(self.folder, number):
                stored.index_copy_(0, ids, rows)
        self._map.flush()

    def _wipe(self) -> None:
        # The file stays the same one: the other processes have mapped it.
        with open(self.folder / ROWS, "r+b") as file:
            size = len(self._map)
            file.truncate(0)
            file.truncate(size)


def _updates_at(folder: Path, step: int, later: list[int]) -> int:
    """How often the rows had been updated at the checkpoint of `step`."""
    if later:
        return read_head(folder, later[0]).updates
    newest = log_steps(folder)[-1]
    return read_head(folder, newest).updates + len(whole_records(folder, newest))


def undo_bytes(rows: int, dim: int, dtype: torch.dtype) -> int:
    """Bytes of log for `rows` row updates: for planning; logs live as long as the checkpoint they lead back to."""
    return rows * (_ID_BYTES + dim * dtype.itemsize)


def local_rank() -> int:
    """The number of this process on its machine (`LOCAL_RANK`, else its rank)."""
    if processes() == 1:
        return 0
    return int(os.environ.get("LOCAL_RANK", distributed.get_rank()))


def machine() -> int:
    """The number of this machine (`GROUP_RANK` of torchrun, else counted from the ranks)."""
    if processes() == 1:
        return 0
    if "GROUP_RANK" in os.environ:
        return int(os.environ["GROUP_RANK"])
    return distributed.get_rank() // int(os.environ.get("LOCAL_WORLD_SIZE", processes()))


def barrier() -> None:
    """Waits for all processes."""
    if processes() > 1:
        distributed.barrier()
