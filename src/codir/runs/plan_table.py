"""The lines of a plan, stage by stage, and the tables that show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codir.printing import Table, table, text
from codir.runs import costs, footprint
from codir.runs.costs import Setting
from codir.runs.warmup import Measured
from codir.storage import human_bytes

_DASH = "-"
Value = int | float | str | None


@dataclass(frozen=True)
class Stage:
    """One stage, planned.

    Attributes:
        name: of the recipe.
        setting: what the formulas read.
        gpu_memory: bytes of the device; None on a CPU or where not known.
        peak: operations a second of the device; None where not known.
        seconds_per_step: estimated or measured.
        measured: the warm-up steps; None if estimated.
    """

    name: str
    setting: Setting
    gpu_memory: int | None
    peak: float | None
    seconds_per_step: float
    measured: Measured | None = None

    @property
    def hours(self) -> float:
        """Of all steps."""
        return self.setting.steps * self.seconds_per_step / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours x processes."""
        return self.hours * self.setting.processes

    @property
    def tokens_per_second(self) -> float:
        """Of all processes."""
        return self.setting.tokens / self.seconds_per_step

    @property
    def utilisation(self) -> float | None:
        """Model-FLOPs utilisation; None where the peak is not known."""
        if self.peak is None:
            return None
        rate = costs.step_flops(self.setting).model / self.seconds_per_step
        return rate / (self.peak * self.setting.processes)

    @property
    def bank(self) -> str:
        """Where the bank lies, in words."""
        place = footprint.bank_place(self.setting, self.gpu_memory)
        return {"gpu": "GPU", "cpu": "CPU memory", "cpu or disk": "CPU, else disk"}.get(place, place) or _DASH


Formula = Callable[[Stage], Value]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        section: heading it stands under.
        key: its name in the JSON.
        label: as shown.
        grows: with what it grows.
        show: a value in words.
        value: of a stage; None where there is no such thing.
    """

    section: str
    key: str
    label: str
    grows: str
    show: Callable[[Any], str]
    value: Formula


def show_count(value: float) -> str:
    """A count as people write it: `35,000`, `124.7 M`, `4.3 G`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def show_flops(value: float) -> str:
    """Operations: `1.25 PFLOP`."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}FLOP"
    return f"{value:,.0f} FLOP"


def show_seconds(value: float) -> str:
    """Seconds or milliseconds."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def show_hours(value: float) -> str:
    """Hours, with minutes' precision where there are few."""
    return f"{value:,.0f} h" if value >= 100 else f"{value:.1f} h" if value >= 1 else f"{60 * value:.1f} min"


def show_rate(value: float) -> str:
    """Something for each second."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3f}"


def show_percent(value: float) -> str:
    """A share."""
    return f"{value:.1%}"


def _section(heading: str, *lines: tuple[str, str, str, Callable[[Any], str], Formula]) -> list[Line]:
    return [Line(heading, *line) for line in lines]


def _shape(which: str) -> Formula:
    def words(stage: Stage) -> Value:
        shape = getattr(stage.setting, which)
        return f"{shape.blocks} x {shape.width}" if shape is not None else None

    return words


def _of(*names: str) -> Formula:
    """What stands in the setting under these names, one inside of the other."""

    def read(stage: Stage) -> Value:
        value: Any = stage.setting
        for name in names:
            value = getattr(value, name, None)
        return value

    return read


def _bytes(formula: Callable[[Setting], int]) -> Formula:
    return lambda stage: formula(stage.setting) or None


def _flops(name: str) -> Formula:
    return lambda stage: getattr(costs.step_flops(stage.setting), name) or None


def _activations(recompute: bool) -> Formula:
    return lambda stage: footprint.activation_bytes(stage.setting, recompute) or None


def _memory(stage: Stage) -> int:
    return footprint.memory_bytes(stage.setting, stage.gpu_memory)


def _checkpoint(stage: Stage) -> int:
    # where auto leaves CPU or disk open, the checkpoint is that of a bank in memory, the larger one
    return footprint.checkpoint_bytes(
        stage.setting, footprint.bank_place(stage.setting, stage.gpu_memory) == "disk"
    )


def _checkpoints(stage: Stage) -> int:
    return (stage.setting.kept + 1) * _checkpoint(stage)


def _undo(stage: Stage) -> Value:
    place = footprint.bank_place(stage.setting, stage.gpu_memory)
    return footprint.undo_bytes(stage.setting) or None if "disk" in place else None


def _total_tokens(stage: Stage) -> int:
    return stage.setting.steps * stage.setting.tokens


def _known(stage: Stage) -> Value:
    return stage.bank if stage.bank != _DASH else None


def _kept(stage: Stage) -> Value:
    return stage.measured.activations if stage.measured else None


def _peak(stage: Stage) -> Value:
    return stage.measured.peak_memory if stage.measured else None


_WEIGHTS = "V d + blocks d²"
_ACTIVATIONS = "micro-batch L blocks d"
_PASS = "tokens blocks (d² + L d)"

LINES: tuple[Line, ...] = (
    *_section(
        "Models",
        ("teacher", "teacher, blocks x width", "", str, _shape("teacher")),
        ("teacher_parameters", "  parameters", _WEIGHTS, show_count, _of("teacher", "parameters")),
        ("teacher_embedding", "  of them embeddings", "V d", show_count, _of("teacher", "embedding")),
        ("student", "student, blocks x width", "", str, _shape("student")),
        ("student_parameters", "  parameters", _WEIGHTS, show_count, _of("student", "parameters")),
        ("student_embedding", "  of them embeddings", "V d", show_count, _of("student", "embedding")),
    ),
    *_section(
        "A step",
        ("batch", "blocks", "batch", show_count, _of("batch")),
        ("micro_batch", "  of them in a process at a time", "micro-batch", show_count, _of("micro_batch")),
        ("accumulation", "  one after the other", "batch / (micro-batch n)", show_count, _of("accumulation")),
        ("tokens", "tokens", "batch L", show_count, _of("tokens")),
        ("positions", "predicted positions", "tokens x share masked", show_count, _of("positions")),
    ),
    *_section(
        "Operations of a step, all processes",
        ("flops_student_forward", "student, forward", _PASS, show_flops, _flops("student_forward")),
        ("flops_student_backward", "student, backward", "twice that", show_flops, _flops("student_backward")),
        ("flops_recomputed", "student, forward again", "as forward", show_flops, _flops("recomputed")),
        ("flops_teacher_forward", "teacher, forward", _PASS, show_flops, _flops("teacher_forward")),
        (
            "flops_attention",
            "  quadratic part of these",
            "tokens L blocks d",
            show_flops,
            _flops("attention"),
        ),
        ("flops_student_head", "student's head", "positions V d", show_flops, _flops("student_head")),
        ("flops_teacher_head", "teacher's head", "positions V d", show_flops, _flops("teacher_head")),
        ("flops_contrast", "contrast", "tokens blocks d + batch² m", show_flops, _flops("contrast")),
        ("flops_total", "all", "", show_flops, _flops("total")),
        ("flops_stock", "  were heads at all positions", "tokens V d", show_flops, _flops("stock")),
    ),
    *_section(
        "Memory of a process",
        ("weights_bytes", "weights, teacher's too", _WEIGHTS, human_bytes, _bytes(footprint.weights_bytes)),
        ("gradient_bytes", "gradients", _WEIGHTS, human_bytes, _bytes(footprint.gradient_bytes)),
        ("adam_bytes", "Adam's moments", _WEIGHTS, human_bytes, _bytes(footprint.adam_bytes)),
        ("activation_bytes", "activations (estimate)", _ACTIVATIONS, human_bytes, _activations(False)),
        ("activations_measured", "  measured", "", human_bytes, _kept),
        (
            "activation_bytes_checkpointing",
            "  with gradient checkpointing",
            "micro-batch L (blocks + 7) d",
            human_bytes,
            _activations(True),
        ),
        (
            "teacher_bytes",
            "teacher's pass",
            _ACTIVATIONS,
            human_bytes,
            _bytes(footprint.teacher_activation_bytes),
        ),
        ("head_bytes", "student's head", "micro-batch L d + V d", human_bytes, _bytes(footprint.head_bytes)),
        (
            "logits_bytes",
            "one chunk of logits",
            "at most 64 MiB (CPU: 16)",
            human_bytes,
            _bytes(footprint.logits_bytes),
        ),
        (
            "stock_logits_bytes",
            "  were all of them there",
            "micro-batch L V",
            human_bytes,
            _bytes(footprint.stock_logits_bytes),
        ),
        ("memory_bytes", "most at a time (estimate)", "", human_bytes, _memory),
        ("memory_measured", "  measured", "", human_bytes, _peak),
    ),
    *_section(
        "Bank and disk",
        ("bank_bytes", "bank or queue", "N m", human_bytes, _bytes(footprint.bank_bytes)),
        ("bank_place", "  where it lies", "N m", str, _known),
        ("undo_bytes", "  its logs, if on disk", "batch m steps between saves", human_bytes, _undo),
        ("corpus_bytes", "corpus", "N L", human_bytes, _bytes(footprint.corpus_bytes)),
        ("teacher_cache", "teacher's cache", "the masks change every pass", str, lambda stage: "none"),
        ("checkpoint_bytes", "a checkpoint", "V d + blocks d² + N m", human_bytes, _checkpoint),
        ("checkpoints_bytes", "  those kept, and a new one", "kept + 1", human_bytes, _checkpoints),
    ),
    *_section(
        "Network",
        (
            "network_bytes",
            "sent by a process in a step",
            _WEIGHTS,
            human_bytes,
            _bytes(footprint.network_bytes),
        ),
    ),
    *_section(
        "Time",
        ("seconds_per_step", "a step", "operations / n", show_seconds, lambda stage: stage.seconds_per_step),
        ("tokens_per_second", "tokens a second", "n", show_rate, lambda stage: stage.tokens_per_second),
        ("steps_per_second", "steps a second", "n / operations", show_rate, lambda s: 1 / s.seconds_per_step),
        ("utilisation", "of the peak", "", show_percent, lambda stage: stage.utilisation),
        ("steps", "steps", "steps", show_count, _of("steps")),
        ("total_tokens", "tokens in all", "steps batch L", show_count, _total_tokens),
        ("epochs", "passes over the corpus", "steps batch / N", show_count, _of("epochs")),
        ("hours", "hours", "steps operations / n", show_hours, lambda stage: stage.hours),
        ("gpu_hours", "GPU-hours", "steps operations", show_hours, lambda stage: stage.gpu_hours),
    ),
)


def stage_values(stage: Stage) -> dict[str, Value]:
    """Returns every line's value by its key, for the JSON; and the setting they follow from."""
    values: dict[str, Value] = {line.key: line.value(stage) for line in LINES}
    return {**values, "setting": asdict(stage.setting)}  # type: ignore[dict-item]


def cells(stages: Sequence[Stage]) -> list[tuple[str, str, list[str], str]]:
    """Returns (section, label, the stages' values, what it grows with) of each line that some stage has."""
    rows = []
    for line in LINES:
        values = [line.value(stage) for stage in stages]
        if any(value is not None for value in values):
            shown = [_DASH if value is None else line.show(value) for value in values]
            rows.append((line.section, line.label, shown, line.grows))
    return rows


def to_rich(stages: Sequence[Stage], title: str) -> Table:
    """Returns the table for the terminal: a column for each stage, and what each line grows with."""
    shown = table(title, collapse_padding=True)
    shown.add_column("")
    for stage in stages:
        shown.add_column(stage.name, justify="right", no_wrap=True)
    shown.add_column("grows with", style="dim")
    section = ""
    for heading, label, values, grows in cells(stages):
        if heading != section:
            shown.add_row(text(heading, "bold"), *[""] * len(stages), "", end_section=False)
            section = heading
        shown.add_row(f"  {label}", *values, grows)
    return shown


def processes_table(title: str, rows: Sequence[Sequence[Stage]]) -> Table:
    """Returns the table of the same stages on other numbers of processes, each row the stages on one number."""
    shown = table(title, collapse_padding=True)
    for heading in ("GPUs", "micro-batches", "a step", "hours", "GPU-hours", "sent a step"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for stages in rows:
        shown.add_row(
            f"{stages[0].setting.processes:,}",
            " / ".join(show_count(stage.setting.accumulation) for stage in stages),
            " / ".join(show_seconds(stage.seconds_per_step) for stage in stages),
            _summed([stage.hours for stage in stages]),
            _summed([stage.gpu_hours for stage in stages]),
            " / ".join(human_bytes(footprint.network_bytes(stage.setting)) for stage in stages),
        )
    return shown


def _summed(hours: Sequence[float]) -> str:
    if len(hours) == 1:
        return show_hours(hours[0])
    return f"{' + '.join(show_hours(each) for each in hours)} = {show_hours(sum(hours))}"
