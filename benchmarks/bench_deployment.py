"""What half the depth and another engine gain on RoBERTa-base's shapes, and how far that is from the machine's best.

A teacher of 12 blocks and a student of 6 (`build_student`), random weights, batches of 32 sequences of 128 tokens, all
of them real; every engine that `codir export` serves. Models and engines take turns; ratios are taken batch by batch.

Goals: the student at least 1.95 times as fast as the teacher in the same engine and precision; the student's best CPU
export against the teacher in torch fp32 at least 12 times in bf16 and 16 times with int8 (set on a CPU with AMX).

Then the machine's own rate of matrix products (the model's shapes and large square ones, the best library for each
precision), the share of it that each engine reaches, and where the rest of the time goes, operator by operator.

    python benchmarks/bench_deployment.py --threads 2

On a busy machine, `--threads 1 --processor-time`: with one thread the processor's time is what the clock would show on
an idle one, caches apart.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import contextlib
import copy
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from codir.deploy.exporting import engine_settings, export_files
from codir.deploy.latency_models import TARGETS
from codir.engines.engines import OPENVINO_FILE, load_engine
from codir.engines.folder import Manifest
from codir.engines.openvino_core import openvino_core
from codir.models.loading import count_parameters
from codir.models.student import build_student
from codir.runs.environment import machine
from codir.runs.plan import KNOWN
from codir.runs.progress import quiet_libraries
from codir.runs.timing import Inputs, time_in_turns

HALF, BF16, INT8 = 1.95, 12.0, 16.0
PRECISION = {
    "torch": "fp32",
    "torch-compiled": "fp32",
    "onnxruntime": "fp32",
    "openvino-fp32": "fp32",
    "torch-bf16": "bf16",
    "openvino": "bf16",
    "onnxruntime-int8": "int8",
    "openvino-int8": "int8",
}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}


# --- models and engines ---------------------------------------------------------------------------------------------


def base(quick: bool) -> PreTrainedModel:
    """RoBERTa-base with random weights; with `quick` a narrow one of four blocks."""
    family, settings = KNOWN["roberta-base"]
    config = AutoConfig.for_model(family, **{**settings, **(SMALL if quick else {})}, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config).eval()


def tokens(model: PreTrainedModel, batch: int, length: int, seed: int) -> Inputs:
    """A batch of random words, no padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def in_engine(model: PreTrainedModel, engine: str, folder: Path, length: int) -> Any:
    """Puts a model into a folder of its own and loads it from there, as a user does."""
    folder.mkdir()
    if engine not in TARGETS:
        model.save_pretrained(folder)
        return load_engine(folder, engine)
    target = TARGETS[engine]
    calibration = [tokens(model, 4, length, seed) for seed in range(4)]
    export_files(copy.deepcopy(model), target, folder, tokens(model, 3, 17, 9), calibration)
    total, embedding = count_parameters(model)
    Manifest(
        format=target.format,
        quantize=target.quantize,
        precision=target.kind,
        engine=target.engine,
        source="benchmark",
        source_digest="",
        settings=engine_settings(target),
        parameters=total,
        embedding_parameters=embedding,
    ).write(folder)
    return load_engine(folder)


def operations(model: PreTrainedModel, batch: int, length: int) -> float:
    """Floating-point operations of a forward pass, a multiplication and an addition being two.

    A block: 2 x (4 d^2 + 2 d f) for each token, and 4 L^2 d for each sequence (scores, and their sum over values).
    """
    c = model.config
    d, f = c.hidden_size, c.intermediate_size
    block = 2 * (4 * d * d + 2 * d * f) * length + 4 * length * length * d
    return float(batch * (c.num_hidden_layers * block + 2 * d * d))


# --- the machine's own rate -----------------------------------------------------------------------------------------


def fastest(run: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of the runs that fit into the time: what the machine can do, without its noise."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = clock()
        run()
        best = min(best, clock() - start)
        if time.perf_counter() > end:
            return best


def torch_product(m: int, k: int, n: int, precision: str) -> Callable[[], Any]:
    if precision == "int8":
        a = torch.randint(-100, 100, (m, k), dtype=torch.int8)
        b = torch.randint(-100, 100, (k, n), dtype=torch.int8)
        product: Any = getattr(torch, "_int_mm")  # noqa: B009 - a private name, the only int8 product there is
        return lambda: product(a, b)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    return lambda: torch.nn.functional.linear(a, b)


def openvino_product(m: int, k: int, n: int, precision: str, threads: int) -> Callable[[], Any]:
    """A product with a constant matrix; a small sum over its rows keeps the result from being handed over whole."""
    import openvino as ov

    op: Any = ov.opset13
    x = op.parameter([m, k], np.float32)
    values = np.random.default_rng(0).standard_normal((n, k), dtype=np.float32)
    left: Any = x
    right: Any = op.constant(values)
    if precision == "int8":
        scale = np.float32(np.abs(values).max() / 127)
        whole = op.constant(np.clip(np.round(values / scale), -127, 127).astype(np.int8))
        right = op.multiply(op.convert(whole, np.float32), op.constant(scale))
        low, high = op.constant(np.float32(-4)), op.constant(np.float32(4))
        left = op.fake_quantize(x, low, high, low, high, 256)
    product = op.matmul(left, right, False, True)
    # reduced to one column: copying all of the result out would cost as much as a quarter of the product
    model: Any = cast(Any, ov.Model)([op.reduce_max(product, op.constant(np.int64(1)), True)], [x], "product")
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
    data = np.random.default_rng(1).standard_normal((m, k), dtype=np.float32)
    return lambda: request.infer([data], share_inputs=True, share_outputs=True)


def rates(
    model: PreTrainedModel, rows: int, threads: int, seconds: float, quick: bool, clock: Callable[[], float]
) -> dict[str, float]:
    """Prints the rates and returns the best of each precision, operations a second."""
    d, f = model.config.hidden_size, model.config.intermediate_size
    shapes = [(rows, d, d), (rows, d, 3 * d), (rows, d, f), (rows, f, d)]
    shapes += [(1024,) * 3] if quick else [(2048,) * 3, (4096,) * 3]
    print("\nMatrix products alone, 10^9 operations a second (the fastest run of each)")
    names = [
        f"{library} {precision}"
        for precision in ("fp32", "bf16", "int8")
        for library in ("torch", "openvino")
    ]
    print(f"  {'M x K x N':<20}" + "".join(f"{name:>15}" for name in names))
    best: dict[str, float] = {"fp32": 0.0, "bf16": 0.0, "int8": 0.0}
    for m, k, n in shapes:
        line = f"  {f'{m} x {k} x {n}':<20}"
        for precision in best:
            products = (torch_product(m, k, n, precision), openvino_product(m, k, n, precision, threads))
            found = [2.0 * m * k * n / fastest(product, seconds, clock) for product in products]
            line += "".join(f"{rate / 1e9:15,.0f}" for rate in found)
            best[precision] = max(best[precision], *found)
        print(line, flush=True)
    print("  best: " + ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in best.items()))
    return best


# --- where the time goes --------------------------------------------------------------------------------------------

_OPENVINO = {
    "matrix products": ("FullyConnected",),
    "attention": ("ScaledDotProduct", "ScaledAttn", "MHA", "MatMul"),
    "softmax": ("SoftMax", "Softmax"),
    "layer norm": ("MVN", "LayerNorm", "RMSNorm"),
    "GELU, sums": ("Gelu", "Eltwise", "Subgraph", "Add", "Multiply"),
    "embeddings": ("Gather", "Embedding", "EmbeddingBag"),
    "layout, quantise": ("Reorder", "FakeQuantize", "Quantize", "Convert", "Transpose", "Reshape"),
}
_TORCH = {
    "matrix products": (
        "aten::addmm",
        "mkldnn::_linear_pointwise",
        "aten::mkldnn_linear",
        "aten::mm",
        "aten::linear",
    ),
    "attention": ("aten::_scaled_dot_product", "aten::bmm", "aten::baddbmm"),
    "softmax": ("aten::_softmax",),
    "layer norm": ("aten::native_layer_norm",),
    "GELU, sums": ("aten::gelu", "aten::add", "aten::mul", "aten::tanh", "aten::add_"),
    "embeddings": ("aten::embedding", "aten::index_select"),
    "layout, quantise": ("aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy"),
}


def grouped(spent: dict[str, float], groups: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Sums the times of operators by group; what belongs to none is `other`."""
    found: dict[str, float] = defaultdict(float)
    for name, value in spent.items():
        exact = (group for group, kinds in groups.items() if name in kinds)
        begins = (group for group, kinds in groups.items() if any(name.startswith(kind) for kind in kinds))
        found[next(exact, None) or next(begins, "other")] += value
    return found


def torch_profile(model: Any, batch: Inputs, rounds: int) -> dict[str, float]:
    """Milliseconds of each operator in a forward pass."""
    from torch.profiler import ProfilerActivity, profile

    # torch's profiler writes to the file descriptor behind Python's back
    with _no_stderr(), torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as made:
        for _ in range(rounds):
            model(**batch)
    return {each.key: each.self_cpu_time_total / 1000 / rounds for each in made.key_averages()}


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def openvino_profile(
    folder: Path, settings: dict[str, str], batch: Inputs, rounds: int, threads: int
) -> dict[str, float]:
    """Milliseconds of each kind of operator in a forward pass."""

    core = openvino_core()
    options = {
        "PERF_COUNT": "YES",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        **settings,
    }
    request = core.compile_model(
        core.read_model(folder / OPENVINO_FILE), "CPU", options
    ).create_infer_request()
    inputs = {each.get_any_name() for each in request.model_inputs}
    feed = {name: tensor.numpy() for name, tensor in batch.items() if name in inputs}
    spent: dict[str, float] = defaultdict(float)
    for number in range(rounds + 1):
        request.infer(feed, share_inputs=True)
        if number:
            for node in request.profiling_info:
                # scores, softmax and sum over the values are one fused subgraph
                kind = "ScaledDotProduct" if "ScaledDotProduct" in node.node_name else node.node_type
                spent[kind] += 1000 * node.real_time.total_seconds() / rounds
    return dict(spent)


def show_profiles(title: str, profiles: dict[str, dict[str, float]], names: list[str]) -> None:
    print(f"\n{title}, ms of a batch (share)")
    print(f"  {'':<20}" + "".join(f"{name:>20}" for name in profiles))
    for group in [*names, "other"]:
        line = f"  {group:<20}"
        for spent in profiles.values():
            value, total = spent.get(group, 0.0), sum(spent.values())
            line += f"{f'{value:,.1f} ({value / total:.0%})':>20}"
        print(line)
    print(f"  {'sum':<20}" + "".join(f"{sum(spent.values()):>20,.1f}" for spent in profiles.values()))


# --- all of it ------------------------------------------------------------------------------------------------------


def median_ratio(first: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios, batch by batch."""
    ratios = (first / other).ravel().tolist()
    return statistics.median(ratios), min(ratios), max(ratios)


def verdict(value: float, goal: float) -> str:
    return "met" if value >= goal else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small model and few rounds, to see that it runs"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=0, help="batches through each model (default: 3)")
    parser.add_argument("--engines", default=",".join(PRECISION), help="commas between")
    parser.add_argument(
        "--processor-time", action="store_true", help="instead of the clock's (one thread only)"
    )
    options = parser.parse_args()
    if options.processor_time and options.threads != 1:
        parser.error("--processor-time counts all threads together: add --threads 1")
    clock = time.process_time if options.processor_time else time.perf_counter
    rounds = options.rounds or (2 if options.quick else 3)
    batch, length = (8, 64) if options.quick else (options.batch, options.length)
    engines = options.engines.split(",")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    quiet_libraries()
    place = machine()
    print(
        f"{place['cpu']} (AMX: {'yes' if place['amx'] else 'no'}), {options.threads} threads of "
        f"{place['cores']} cores, load average {os.getloadavg()[0]:.1f} at the start"
    )
    teacher = base(options.quick)
    student = build_student(teacher).eval()
    sources = {"teacher": teacher, "student": student}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place_for_models:
        folders = {
            (name, engine): Path(place_for_models) / f"{name}-{engine}"
            for name in sources
            for engine in engines
        }
        models = {}
        for (name, engine), folder in folders.items():
            try:
                models[f"{name} {engine}"] = in_engine(sources[name], engine, folder, length)
            except (
                Exception
            ) as error:  # an engine that is not installed or cannot run here is left out, and named
                print(f"left out: {name} in {engine}: {error}")
        print(f"exported and loaded in {time.perf_counter() - started:.0f} s", flush=True)
        inputs = [tokens(teacher, batch, length, seed) for seed in range(rounds)]
        seconds = time_in_turns(models, dict.fromkeys(models, inputs), 1, clock=clock)
        show_speed(seconds, engines, batch, length)
        best = rates(
            teacher, batch * length, options.threads, 0.05 if options.quick else 0.5, options.quick, clock
        )
        show_shares(seconds, sources, best, batch, length)
        profiles = {}
        for engine in ("torch", "torch-bf16"):
            if (own := models.get(f"student {engine}")) is not None:
                profiles[engine] = grouped(torch_profile(own, inputs[0], 2), _TORCH)
        kinds: dict[str, dict[str, float]] = {}
        for engine in ("openvino-fp32", "openvino", "openvino-int8"):
            if f"student {engine}" in models:
                folder = folders["student", engine]
                settings = engine_settings(TARGETS[engine])
                kinds[engine] = openvino_profile(folder, settings, inputs[0], 2, options.threads)
                profiles[engine] = grouped(kinds[engine], _OPENVINO)
        if profiles:
            show_profiles("The student, operator by operator", profiles, list(_OPENVINO))
        for engine, spent in kinds.items():
            most = sorted(spent.items(), key=lambda item: -item[1])[:8]
            print(f"  {engine}: " + ", ".join(f"{kind} {value:,.1f}" for kind, value in most))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end; {time.perf_counter() - started:.0f} s in all")


def show_speed(seconds: dict[str, np.ndarray], engines: list[str], batch: int, length: int) -> None:
    """Prints the times, the ratios, and whether the goals were met."""
    print(
        f"\nms per sequence, batches of {batch} x {length} tokens: median of the batches, half of their range"
    )
    print(
        f"  {'engine':<18}{'prec.':<7}{'teacher':>16}{'student':>16}{'teacher / student':>28}{'vs torch fp32':>16}"
    )
    reference = seconds.get("teacher torch")
    halves: dict[str, float] = {}
    exports: dict[str, float] = {}
    for engine in engines:
        pair = [seconds.get(f"{name} {engine}") for name in ("teacher", "student")]
        line = f"  {engine:<18}{PRECISION[engine]:<7}"
        for times in pair:
            if times is None:
                line += f"{'-':>16}"
            else:
                each = 1000 * times.ravel() / batch
                line += f"{f'{np.median(each):.2f} ±{np.ptp(each) / 2:.2f}':>16}"
        if pair[0] is not None and pair[1] is not None:
            middle, low, high = median_ratio(pair[0], pair[1])
            halves[engine] = middle
            line += f"{f'{middle:.2f} ({low:.2f}..{high:.2f})':>28}"
        if pair[1] is not None and reference is not None:
            exports[engine] = median_ratio(reference, pair[1])[0]
            line += f"{f'{exports[engine]:.1f}x':>16}"
        print(line)
    print()
    if halves:
        worst = min(halves, key=lambda engine: halves[engine])
        missed = [f"{engine} {value:.2f}" for engine, value in halves.items() if value < HALF]
        print(
            f"half depth at least {HALF} times as fast in the same engine: {verdict(halves[worst], HALF)} "
            f"(lowest {halves[worst]:.2f} in {worst}{'; missed in ' + ', '.join(missed) if missed else ''})"
        )
    for precision, goal in (("bf16", BF16), ("int8", INT8)):
        own = {engine: value for engine, value in exports.items() if PRECISION[engine] == precision}
        if own:
            engine = max(own, key=lambda each: own[each])
            print(
                f"student in {precision} at least {goal:g} times as fast as the teacher in torch fp32: "
                f"{verdict(own[engine], goal)} ({own[engine]:.1f} in {engine})"
            )


def show_shares(
    seconds: dict[str, np.ndarray],
    models: dict[str, PreTrainedModel],
    best: dict[str, float],
    batch: int,
    length: int,
) -> None:
    """Prints the rate each engine reaches (its fastest batch) and its share of the machine's best."""
    print(
        "\nRate of the whole forward pass (fastest batch), and its share of the best product rate of its precision"
    )
    for key, times in seconds.items():
        name, engine = key.split(" ", 1)
        rate = operations(models[name], batch, length) / float(times.min())
        share = rate / best[PRECISION[engine]]
        print(f"  {name:<10}{engine:<18}{PRECISION[engine]:<6}{rate / 1e9:9,.0f} x 10^9/s {share:8.0%}")
    if "teacher torch" in seconds:
        half = operations(models["student"], batch, length)
        reference = float(seconds["teacher torch"].min())
        bounds = [f"{name} {reference * best[name] / half:.1f}" for name in ("bf16", "int8")]
        print(
            f"  at these best rates the student would be faster than the teacher in torch fp32 by: {', '.join(bounds)}"
        )


if __name__ == "__main__":
    main()
