"""Vectors of single tokens on disk: what `represent` gives, shared between trainings, whole or not there."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from codir.errors import ModelError, RunError
from codir.models.padding import Padding, pad_batch
from codir.models.representations import TokenView
from codir.teacher.cache import open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.store import fault_of
from codir.teacher.token_cache import TokenOutputs, open_token_cache, token_cache_bytes, too_large

H0, H2, H4 = (TokenView("hidden", block) for block in (0, 2, 4))
Q2, K2, V4 = TokenView("query", 2), TokenView("key", 2), TokenView("value", 4)
ALL = (H0, H2, H4, Q2, K2, V4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Opener:
    """Opens views of one teacher and data set, and remembers the teacher's passes and what was told last."""

    def __init__(self, teacher, data, tokenizer, folder):
        self.teacher, self.data, self.tokenizer, self.folder = teacher, data, tokenizer, folder
        self.passes: list[int] = []
        self.told: list[str] = []

    def __call__(self, *views: TokenView) -> TokenOutputs:
        self.told.clear()
        return open_token_cache(
            self.teacher,
            self.data,
            views,
            tokenizer=self.tokenizer,
            folder=self.folder,
            batch_size=16,
            report=self.told.append,
            progress=lambda done, total: self.passes.append(done) if done == total else None,
        )


@pytest.fixture
def open_views(tiny_classifier, tiny_tokenizer, encoded, folder) -> Opener:
    return Opener(FrozenTeacher(tiny_classifier()), encoded(), tiny_tokenizer, folder)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def tiny_roberta(vocabulary: int) -> RobertaForSequenceClassification:
    """Returns a model whose positions do not depend on where the padding is."""
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            pad_token_id=0,
            type_vocab_size=2,
            initializer_range=0.2,
        )
    ).eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_every_view_is_the_live_teachers(tiny_tokenizer, encoded, folder, side, autocast):
    teacher = FrozenTeacher(tiny_roberta(len(tiny_tokenizer)), autocast=autocast)
    data = encoded()
    outputs = open_token_cache(teacher, data, ALL, tokenizer=tiny_tokenizer, folder=folder, batch_size=7)
    assert outputs.built == outputs.views == set(ALL)
    ids = torch.tensor([31, 0, 5, 5, 39])
    padding = replace(Padding.of(tiny_tokenizer), side=side)
    batch = pad_batch([data[int(number)] for number in ids], padding)
    live = teacher.represent(batch, tokens=ALL)
    cached = outputs.rows(ids, batch["input_ids"].shape[1], side)
    assert set(cached) == set(ALL)
    real = batch["attention_mask"].bool()
    assert not real.all()
    for view in ALL:
        assert cached[view].dtype == torch.float32
        assert cached[view].shape == (5, real.shape[1], 32)
        # half precision keeps 11 bits; another batch, other rounding of sums
        atol, rtol = (1e-4, 2**-11) if autocast is None else (0.1, 0.05)
        torch.testing.assert_close(cached[view][real], live.tokens[view][real].float(), atol=atol, rtol=rtol)
        assert (cached[view][~real] == 0).all()
        assert cached[view][real].abs().mean() > 0.01


def test_rows_follow_example_ids_not_positions(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    settings = {"tokenizer": tiny_tokenizer, "folder": folder}
    plain = open_token_cache(teacher, data, [H2], **settings)
    mixed = open_token_cache(teacher, data.shuffle(seed=1), [H2], **settings)
    assert mixed.built
    ids = [7, 3, 20]
    torch.testing.assert_close(mixed.rows(ids, 20)[H2], plain.rows(ids, 20)[H2], atol=2e-3, rtol=1e-3)


def test_no_padding_is_stored(open_views, folder):
    outputs = open_views(H2, Q2)
    tokens = sum(len(ids) for ids in open_views.data["input_ids"])
    for path in outputs.files.values():
        stored = np.load(path, mmap_mode="r")
        assert (stored.shape, stored.dtype) == ((tokens, 32), np.float16)
        assert not outputs._flat[H2].flags.writeable
    assert len(outputs) == 40
    lengths = np.array([len(ids) for ids in open_views.data["input_ids"]])
    real = sum(path.stat().st_size for path in outputs.files[H2].parent.iterdir())
    predicted = token_cache_bytes(lengths, open_views.teacher.shape, [H2, Q2, H2])
    assert real <= predicted <= real + 6000


def test_what_cannot_be_read_is_said(open_views):
    outputs = open_views(H2)
    for bad in ([40], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.39"):
            outputs.rows(bad, 20)
    with pytest.raises(ValueError, match="padded to 1"):
        outputs.rows([0, 1], 1)
    with pytest.raises(KeyError):
        outputs.only([H4])
    assert outputs.rows([], 5)[H2].shape == (0, 5, 32)


def test_one_pass_for_all_that_is_missing_and_entries_are_shared(open_views, folder):
    assert open_views(H2, Q2).built == {H2, Q2}
    assert open_views.passes == [40]
    assert "hidden.2, query.2" in open_views.told[0]
    more = open_views(Q2, H4, K2)
    assert more.built == {H4, K2}
    assert more.views == {Q2, H4, K2}
    assert open_views.passes == [40, 40]
    assert "hidden.4, key.2)" in open_views.told[0]
    assert len(entries(folder)) == 2
    both = open_views(H2, H4, Q2, K2)
    assert both.built == set()
    assert open_views.told == []
    assert open_views.passes == [40, 40]
    assert max(map(len, entries(folder))) < 60
    assert torch.equal(both.rows([3], 20)[H4], more.rows([3], 20)[H4])


def test_pooled_and_token_entries_do_not_disturb_each_other(open_views, tiny_tokenizer, folder):
    settings = {"tokenizer": tiny_tokenizer, "folder": folder}
    open_views(H2)
    first = open_cache(open_views.teacher, open_views.data, **settings)
    assert first.built
    assert not open_cache(open_views.teacher, open_views.data, **settings).built
    assert not open_views(H2).built
    together = first.with_tokens(open_views(H2))
    assert (together.tokens is not None, first.tokens) == (True, None)


def test_no_views_no_pass(open_views, folder):
    outputs = open_views()
    assert outputs.views == set()
    assert outputs.rows([1, 2], 20) == {}
    assert not folder.exists()


def test_only_some_of_the_views(open_views):
    outputs = open_views(H2, Q2, H4)
    part = outputs.only([Q2])
    assert set(part.rows([1], 20)) == {Q2}
    assert torch.equal(part.rows([1], 20)[Q2], outputs.rows([1], 20)[Q2])
    assert outputs.views == {H2, Q2, H4}


def _rows_elsewhere(queue, outputs):
    queue.put(outputs.rows([2, 0], 20)[Q2].numpy())


def test_survives_the_way_to_a_spawned_worker(open_views):
    outputs = open_views(H2, Q2).only([Q2])
    text = pickle.dumps(outputs)
    assert len(text) < 3000  # the files' names and the offsets
    assert set(pickle.loads(text).rows([1], 20)) == {Q2}
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_rows_elsewhere, args=(queue, outputs))
    process.start()
    found = queue.get(timeout=300)
    process.join()
    assert np.array_equal(found, outputs.rows([2, 0], 20)[Q2].numpy())


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGE = {
    "truncated": ("hidden.2.npy", lambda path: path.write_bytes(path.read_bytes()[:-64]), "bytes where"),
    "flipped": ("hidden.2.npy", _flip, "has changed"),
    "missing": ("query.2.npy", Path.unlink, "is missing"),
    "no manifest": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "bad manifest": ("manifest.json", lambda path: path.write_text('{"files": {'), "cannot be read"),
    "odd manifest": ("manifest.json", lambda path: path.write_text("[]"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_mended(damage, open_views, folder):
    name, spoil, message = DAMAGE[damage]
    whole = open_views(H2, Q2)
    expected = whole.rows([4, 9], 20)
    spoil(whole.files[H2].parent / name)
    mended = open_views(H2, Q2)
    assert mended.built == {H2, Q2}
    assert any("damaged" in line and message in line for line in open_views.told)
    for view in (H2, Q2):
        assert torch.equal(mended.rows([4, 9], 20)[view], expected[view])
    assert not open_views(H2, Q2).built
    assert len(entries(folder)) == 1


def test_damage_elsewhere_in_an_entry_is_left_to_those_it_concerns(open_views, folder):
    whole = open_views(H2, Q2)
    _flip(whole.files[Q2])
    assert not open_views(H2).built
    assert open_views(Q2, H4).built == {Q2, H4}
    assert len(entries(folder)) == 1  # the damaged one is gone
    assert open_views(H2).built == {H2}


def test_an_error_on_the_way_leaves_nothing(open_views, folder, tiny_tokenizer):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_token_cache(
            open_views.teacher, open_views.data, [H2], tokenizer=tiny_tokenizer, folder=folder, progress=stop
        )
    assert entries(folder) == []


def test_numbers_beyond_half_precision(tiny_classifier, tiny_tokenizer, encoded, folder):
    model = tiny_classifier()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.bias[0] = 1e5
    settings = {"tokenizer": tiny_tokenizer, "folder": folder}
    with pytest.raises(ModelError, match=r"\(hidden\.2\) .*half precision.*--no-cache"):
        open_token_cache(FrozenTeacher(model), encoded(), [H2, H4], **settings)
    assert entries(folder) == []
    # only what is read has to fit
    assert open_token_cache(FrozenTeacher(model), encoded(), [TokenView("hidden", 1)], **settings).built


def test_the_example_with_the_bad_number_is_named(tiny_classifier, tiny_tokenizer, encoded, folder):
    model, data = tiny_classifier(), encoded()
    rows = [list(ids) for ids in data["input_ids"]]
    for row in rows:
        row[:] = [token if token != 60 else 59 for token in row]
    rows[23][-1] = 60
    data = data.remove_columns("input_ids").add_column("input_ids", rows)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[60] = float("nan")
    with pytest.raises(ModelError, match="first for example 23"):
        open_token_cache(FrozenTeacher(model), data, [H0], tokenizer=tiny_tokenizer, folder=folder)


def test_disk_need_is_told_and_checked_first(open_views, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 1000))
    monkeypatch.setattr(open_views.teacher.model, "forward", None)  # not a single batch is computed
    with pytest.raises(RunError, match=r"teacher's cache needs .* has 1\.0 kB free"):
        open_views(H2)
    assert "40 examples take" in open_views.told[0]
    assert entries(folder) == []


def test_disk_that_fills_up_while_files_are_made(open_views, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match="No space left"):
        open_views(H2)
    assert entries(folder) == []


def test_too_large(tiny_classifier, encoded):
    shape, data = FrozenTeacher(tiny_classifier()).shape, encoded()
    needed = token_cache_bytes(np.array([len(ids) for ids in data["input_ids"]]), shape, ALL) / 1e9
    assert too_large(data, shape, ALL, needed) is None
    line = too_large(data, shape, ALL, needed * 0.99)
    assert line is not None
    assert "live" in line
    assert "kB" in line
    assert too_large(data, shape, [], 0) is None


BUILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from datasets import load_from_disk
from codir.models.loading import load_classifier, load_tokenizer
from codir.models.representations import TokenView
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.token_cache import open_token_cache

model, data, folder, gate, *views = sys.argv[1:]

def progress(done, total):
    print("batch", done, flush=True)
    while done == 12 and not Path(gate).exists():  # stand still in the middle until the test says so
        time.sleep(0.02)

outputs = open_token_cache(
    FrozenTeacher(load_classifier(model)), load_from_disk(data), [TokenView("hidden", int(view)) for view in views],
    tokenizer=load_tokenizer(model), folder=folder, batch_size=4,
    report=lambda line: print("report", line, flush=True), progress=progress,
)
print("built", sorted(view.block for view in outputs.built), flush=True)
"""


@pytest.fixture
def builders(tmp_path: Path, tiny_model_dir, encoded):
    """Starts two builders of different views of one teacher; returns the one at work, and the one that waits."""
    encoded().save_to_disk(tmp_path / "data")
    arguments = [tiny_model_dir(), tmp_path / "data", tmp_path / "cache", tmp_path / "gate"]
    command = [sys.executable, "-c", BUILD, *map(str, arguments)]
    both = []
    try:
        for views, expected in ((["1", "2"], "batch 12"), (["2", "3"], "report Another")):
            process = subprocess.Popen(
                [*command, *views], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            both.append(process)
            assert process.stdout is not None
            assert any(line.startswith(expected) for line in process.stdout)
        yield both
    finally:
        for process in both:
            process.kill()
            process.wait()


def test_the_second_builder_computes_only_what_the_first_one_has_not(builders, tmp_path: Path):
    (tmp_path / "gate").touch()
    first, second = (process.communicate(timeout=300)[0] for process in builders)
    assert "built [1, 2]" in first
    assert "built [3]" in second
    assert len(entries(tmp_path / "cache")) == 2


def test_a_killed_builder_leaves_nothing_that_is_believed(builders, tmp_path: Path):
    at_work, waiting = builders
    (left,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert left.name.startswith(".building-tokens-")
    at_work.send_signal(signal.SIGKILL)
    at_work.wait()
    (tmp_path / "gate").touch()
    output = waiting.communicate(timeout=300)[0]
    assert "left by a process that died" in output
    assert "built [2, 3]" in output
    assert not left.exists()
    (entry,) = entries(tmp_path / "cache")
    assert fault_of(tmp_path / "cache" / entry) is None
