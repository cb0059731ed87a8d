"""Timing: who runs when, what is computed from the seconds, and that the models come back as they were."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from datasets import Dataset

from codir.errors import DataError
from codir.measure.timing import Timing, measure, measure_requests, model_size, texts_of, token_lengths

TEXTS = ["the cat sees a dog"] * 5 + ["a bad film !", "good"]


class SlowClock:
    """A clock on which each forward pass of a model takes the time given for it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(model, clock: SlowClock, seconds: float, calls: list[str], name: str) -> None:
    def hook(*_: object) -> None:
        clock.now += seconds
        calls.append(name)

    model.register_forward_hook(hook)


def test_medians_and_speedups_and_turns(tiny_classifier, tiny_tokenizer) -> None:
    clock, calls = SlowClock(), []
    teacher, student = tiny_classifier(), tiny_classifier(layers=2)
    timed(teacher, clock, 0.4, calls, "t")
    timed(student, clock, 0.1, calls, "s")
    models = {"teacher": (teacher, tiny_tokenizer), "student": (student, tiny_tokenizer)}
    result = measure(models, TEXTS, batch_size=4, max_length=16, rounds=3, clock=clock)
    # 7 texts are 2 batches: 0.8 s and 0.2 s a round
    assert result["teacher"].ms_per_sequence == pytest.approx(800 / 7)
    assert result["student"].ms_per_sequence == pytest.approx(200 / 7)
    assert result["teacher"].speedup == 1.0
    assert result["student"].speedup == pytest.approx(4.0)
    assert result["student"].speedup_low == pytest.approx(4.0)
    assert result["student"].spread == pytest.approx(0.0, abs=1e-9)
    assert list(result) == ["teacher", "student"]
    assert (result["student"].sequences, len(result["student"].rounds)) == (7, 3)
    # warm-up, then they take turns batch by batch and change who goes first
    assert "".join(calls) == "ts" + "tsst" + "stts" + "tsst"


def test_noise_that_hits_one_round_does_not_move_the_median(tiny_classifier, tiny_tokenizer) -> None:
    clock, calls = SlowClock(), []
    teacher, student = tiny_classifier(), tiny_classifier(layers=2)
    timed(teacher, clock, 0.2, calls, "t")
    timed(student, clock, 0.1, calls, "s")
    # calls 2 and 3 are the first timed round: the machine is ten times slower there
    teacher.register_forward_hook(lambda *_: setattr(clock, "now", clock.now + 1.8 * (len(calls) in (3, 4))))
    models = {"teacher": (teacher, tiny_tokenizer), "student": (student, tiny_tokenizer)}
    result = measure(models, TEXTS[:1], rounds=3, clock=clock)
    assert result["teacher"].ms_per_sequence == pytest.approx(200)
    assert max(result["teacher"].rounds) == pytest.approx(2000)
    assert result["teacher"].spread == pytest.approx(900)
    assert result["student"].speedup == pytest.approx(2)
    assert result["student"].speedup_high == pytest.approx(20)


def test_real_clock_modes_and_length(tiny_classifier, tiny_tokenizer) -> None:
    seen: list[tuple[int, ...]] = []
    model = tiny_classifier().train()
    model.register_forward_pre_hook(
        lambda module, _, kwargs: seen.append((*kwargs["input_ids"].shape, module.training)), with_kwargs=True
    )
    result = measure({"m": (model, tiny_tokenizer)}, ["a dog"], rounds=1, max_length=12, pad_to_max_length=True)
    assert model.training
    assert seen == [(1, 12, False)] * 2
    assert result["m"].ms_per_sequence > 0
    assert (result["m"].device, result["m"].dtype) == ("cpu", "float32")
    # longer than the model's 64 positions: cut, not an index error
    measure({"m": (model, tiny_tokenizer)}, ["dog " * 200], rounds=1, max_length=512)
    assert seen[-1][:2] == (1, 64)


def test_pairs_and_round_trip(tiny_classifier, tiny_tokenizer) -> None:
    lengths: list[int] = []
    model = tiny_classifier()
    model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    timing = measure({"m": (model, tiny_tokenizer)}, [("a dog", "a cat"), ("a", None)], rounds=1)["m"]
    assert lengths[0] == 7  # [CLS] a dog [SEP] a cat [SEP]
    assert Timing.from_dict(json.loads(json.dumps(asdict(timing)))) == timing
    assert not torch.is_inference_mode_enabled()


def test_nothing_to_measure(tiny_classifier, tiny_tokenizer) -> None:
    with pytest.raises(DataError, match="no texts"):
        measure({"m": (tiny_classifier(), tiny_tokenizer)}, [])


def test_model_size_counts_safetensors_only(tmp_path, tiny_model_dir) -> None:
    folder = tiny_model_dir()
    (folder / "optimizer.bin").write_bytes(b"x" * 1000)
    assert model_size(folder) == (folder / "model.safetensors").stat().st_size
    assert model_size(tmp_path) == 0


def test_requests_percentiles_rates_and_tokens(tiny_classifier, tiny_tokenizer) -> None:
    clock, calls = SlowClock(), []
    teacher, student = tiny_classifier(), tiny_classifier(layers=2)

    def by_length(model, factor: float, name: str) -> None:
        def hook(_: object, __: object, kwargs: dict, ___: object) -> None:
            clock.now += factor * kwargs["input_ids"].shape[1]
            calls.append(name)

        model.register_forward_hook(hook, with_kwargs=True)

    by_length(teacher, 0.004, "t")
    by_length(student, 0.001, "s")
    models = {"teacher": (teacher, tiny_tokenizer), "student": (student, tiny_tokenizer)}
    # 18 texts of 4 tokens, 2 of 12: single requests of 16 and 48 ms
    texts = ["a dog"] * 18 + ["dog " * 10] * 2
    result = measure_requests(models, texts, batch_size=1, max_length=16, rounds=2, clock=clock)["teacher"]
    assert (result.batch_size, result.requests) == (1, 40)
    assert result.p50 == pytest.approx(16)
    assert result.p95 == pytest.approx(48)
    assert result.mean == pytest.approx((18 * 16 + 2 * 48) / 20)
    assert result.sequences_per_second == pytest.approx(20 / (18 * 0.016 + 2 * 0.048))
    assert result.tokens == pytest.approx((18 * 4 + 2 * 12) / 20)
    # warmed up with one batch of each shape; then turns of 16 and 4 texts, each after one that is not timed
    first, second = "t" * 17 + "s" * 17, "s" * 5 + "t" * 5
    assert "".join(calls) == "tt" + "ss" + first + second + "s" * 17 + "t" * 17 + "t" * 5 + "s" * 5
    student_result = measure_requests(models, texts, 4, 16, 1, clock=clock)["student"]
    assert student_result.speedup == pytest.approx(4)
    # batches are padded to their longest only: four of 4 tokens, one of 12
    assert student_result.p50 == pytest.approx(4)


@pytest.mark.parametrize(("texts", "requests"), [(20, 2), (40, 3), (5, 1)])
def test_all_requests_have_as_many_texts_as_asked(tiny_classifier, tiny_tokenizer, texts, requests) -> None:
    clock, sizes = SlowClock(), set()
    model = tiny_classifier()

    def by_size(_: object, __: object, kwargs: dict, ___: object) -> None:
        sizes.add(kwargs["input_ids"].shape[0])
        clock.now += 0.001 * kwargs["input_ids"].shape[0]

    model.register_forward_hook(by_size, with_kwargs=True)
    given = {"teacher": (model, tiny_tokenizer)}
    found = measure_requests(given, ["a dog"] * texts, batch_size=16, rounds=1, clock=clock)["teacher"]
    assert sizes == {16}
    assert (found.requests, found.p50) == (requests, pytest.approx(16))
    assert found.sequences_per_second == pytest.approx(1000)
    assert found.tokens == pytest.approx(4)


def test_progress_counts_every_pass(tiny_classifier, tiny_tokenizer) -> None:
    seen: list[tuple[int, int]] = []
    models = {"a": (tiny_classifier(), tiny_tokenizer), "b": (tiny_classifier(layers=2), tiny_tokenizer)}

    def note(done: int, in_all: int) -> None:
        seen.append((done, in_all))

    measure(models, TEXTS, batch_size=4, rounds=2, progress=note)
    assert seen == [(number, 10) for number in range(1, 11)]
    seen.clear()
    measure_requests(models, TEXTS, rounds=1, progress=note)
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_texts_and_their_lengths(tiny_tokenizer) -> None:
    pairs = Dataset.from_dict({"text": ["a dog", "good"], "text_pair": ["a cat", "bad"]})
    assert texts_of(pairs) == [("a dog", "a cat"), ("good", "bad")]
    assert texts_of(pairs.remove_columns("text_pair"), 1) == ["a dog"]
    assert token_lengths(tiny_tokenizer, ["a dog", "dog " * 200]) == [4, 202]
    assert token_lengths(tiny_tokenizer, [("a dog", "a cat")]) == [7]
