"""The teacher's outputs on disk: what the live teacher gives, shared between trainings, whole or not there."""

from __future__ import annotations

import copy
import pickle
import shutil
import signal
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from killing import at_call, begin, end, forked, needs_fork
from transformers import RobertaConfig, RobertaForSequenceClassification

from codir.errors import DataError, ModelError, RunError
from codir.files import TEMPORARY
from codir.manifest import fault_by
from codir.models.inference import Padding, pad_batch
from codir.models.representations import EncoderShape, Representations, TokenView
from codir.teacher import store
from codir.teacher.cache import CacheSettings, TeacherOutputs, TeacherSource, cache_bytes, open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.teacher.store import default_cache_folder, new_entry

H0, H2, H4 = (TokenView("hidden", layer) for layer in (0, 2, 4))
Q2, K2, V4 = TokenView("query", 2), TokenView("key", 2), TokenView("value", 4)
ALL = (H0, H2, H4, Q2, K2, V4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


class Opener:
    """Opens outputs of one teacher and data set, and remembers the teacher's passes and what was told last."""

    def __init__(self, teacher: FrozenTeacher, data: Dataset, tokenizer: Any, folder: Path):
        self.teacher, self.data, self.tokenizer, self.folder = teacher, data, tokenizer, folder
        self.passes: list[int] = []
        self.told: list[str] = []

    def __call__(self, *outputs: Any, **changes: Any) -> TeacherOutputs:
        self.told.clear()
        settings = {
            "tokenizer": self.tokenizer,
            "poolings": [each for each in outputs if isinstance(each, str)],
            "tokens": [each for each in outputs if isinstance(each, TokenView)],
            "folder": self.folder,
            "batch_size": 16,
            "report": self.told.append,
            "progress": lambda done, total: self.passes.append(done) if done == total else None,
        }
        teacher, data = changes.pop("teacher", self.teacher), changes.pop("data", self.data)
        return open_cache(teacher, data, **settings | changes)


@pytest.fixture
def opened(tiny_classifier, tiny_tokenizer, encoded, folder) -> Opener:
    return Opener(FrozenTeacher(tiny_classifier()), encoded(), tiny_tokenizer, folder)


def same(one: Representations, other: Representations) -> bool:
    pairs = [(one.logits, other.logits)]
    for name in ("pooled", "tokens"):
        first, second = getattr(one, name), getattr(other, name)
        assert set(first) == set(second)
        pairs += [(first[key], second[key]) for key in first]
    return all(torch.equal(*pair) for pair in pairs)


# ---- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_equals_the_live_teacher(tiny_tokenizer, encoded, folder, side, autocast):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=len(tiny_tokenizer), num_labels=3, pad_token_id=0, initializer_range=0.2, **sizes)
    # a family whose positions do not depend on where the padding is
    teacher = FrozenTeacher(RobertaForSequenceClassification(config).eval(), (1, 2, 0), autocast)
    data = encoded()
    outputs = Opener(teacher, data, tiny_tokenizer, folder)("mean", "cls", *ALL, batch_size=7)
    assert outputs.built == {"logits", "mean", "cls", *ALL}
    assert (len(outputs), outputs.shape) == (40, EncoderShape(4, 32))
    ids = torch.tensor([31, 0, 5, 5, 39])
    batch = pad_batch([data[int(n)] for n in ids], replace(Padding.of(tiny_tokenizer), side=side))
    live = teacher.represent(batch, ["mean", "cls"], tokens=ALL)
    cached = outputs.rows(ids, batch["input_ids"].shape[1], side)
    # half precision keeps 11 bits: a relative error of at most 2^-11 (and the order of summation)
    near = {"atol": 1e-4, "rtol": 2**-11} if autocast is None else {"atol": 0.1, "rtol": 0.05}
    assert torch.equal(outputs.logits[ids], cached.logits)
    if side == "right":  # its head, and `cls`, look at the first place
        torch.testing.assert_close(cached.logits, live.logits, **near)
    for how in ("mean", "cls") if side == "right" else ("mean",):
        assert (cached.pooled[how].shape, cached.pooled[how].dtype) == ((5, 4, 32), torch.float32)
        torch.testing.assert_close(cached.pooled[how], live.pooled[how].float(), **near)
    real = batch["attention_mask"].bool()
    assert not real.all()
    assert set(cached.tokens) == set(ALL)
    for view in ALL:
        assert (cached.tokens[view].shape, cached.tokens[view].dtype) == (
            (5, real.shape[1], 32),
            torch.float32,
        )
        torch.testing.assert_close(cached.tokens[view][real], live.tokens[view][real].float(), **near)
        assert (cached.tokens[view][~real] == 0).all()
        assert cached.tokens[view][real].abs().mean() > 0.01


def test_rows_follow_example_ids_not_positions(opened):
    plain, mixed = opened("mean", H2), opened("mean", H2, data=opened.data.shuffle(seed=1))
    assert mixed.built
    ids = [7, 3, 20]
    for key in ("pooled", "tokens"):
        for name, values in getattr(plain.rows(ids), key).items():
            torch.testing.assert_close(getattr(mixed.rows(ids), key)[name], values, atol=2e-3, rtol=1e-3)


def test_types_shapes_and_sizes_on_disk(opened):
    outputs = opened("mean", H2, Q2)
    tokens = sum(len(ids) for ids in opened.data["input_ids"])
    for view in (H2, Q2):  # no padding is stored
        stored = np.load(outputs.files[view], mmap_mode="r")
        assert (stored.shape, stored.dtype) == ((tokens, 32), np.float16)
    space = outputs.space("mean")
    assert isinstance(space, np.memmap)
    assert not space.flags.writeable
    assert (space.shape, space.dtype) == ((40, 128), np.float16)
    assert np.array_equal(space[3].reshape(4, 32), outputs.rows([3]).pooled["mean"][0].numpy())
    assert np.load(outputs.files["logits"]).dtype == np.float32
    real = sum(path.stat().st_size for path in outputs.files[H2].parent.iterdir())
    predicted = cache_bytes(40, 2, opened.teacher.shape, ["mean"], [H2, Q2, H2], tokens)
    assert real <= predicted <= real + 6000


def test_what_cannot_be_read_is_said(opened):
    outputs = opened("mean", H2)
    for bad in ([40], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.39"):
            outputs.rows(bad)
    with pytest.raises(KeyError, match="'cls'"):
        outputs.space("cls")
    assert outputs.rows([], 5).tokens[H2].shape == (0, 5, 32)
    assert outputs.rows([]).logits.shape == (0, 2)


def test_workers_map_the_files_themselves(opened):
    outputs = opened("mean", Q2)
    sent = pickle.dumps(outputs)
    assert len(sent) < 3000  # the files' names and the offsets
    assert same(pickle.loads(sent).rows([4]), outputs.rows([4]))


# ---- what is computed ------------------------------------------------------------------------------------------------


def test_computed_once_for_the_same_content(opened, tiny_classifier, tiny_tokenizer):
    first = opened("mean")
    # a model loaded anew from elsewhere, other order of classes, a tokenizer that was used meanwhile
    again = FrozenTeacher(tiny_classifier(), logit_order=(1, 0))
    again.model.config._name_or_path = "elsewhere"
    again.model.config.id2label = {0: "no", 1: "yes"}
    tiny_tokenizer(["the cat", "a"], truncation=True, max_length=3, padding="max_length")
    second = opened("mean", teacher=again)
    assert (opened.passes, second.built) == ([40], set())
    assert torch.equal(second.logits, first.logits[:, [1, 0]])


def test_one_pass_for_all_that_is_missing_and_entries_are_shared(opened, folder):
    assert opened("mean", H2, Q2).built == {"logits", "mean", H2, Q2}
    assert opened.passes == [40]
    assert "(logits, mean, hidden.2, query.2) for 40 examples take" in opened.told[0]
    assert opened().built == set()
    more = opened("cls", "mean", Q2, H4, K2)
    assert more.built == {"cls", H4, K2}
    assert opened.passes == [40, 40]
    assert "(cls, hidden.4, key.2)" in opened.told[0]
    both = opened("mean", "cls", "mean", H2, H4, Q2, K2)
    assert (both.built, opened.told, opened.passes) == (set(), [], [40, 40])
    assert len(entries(folder)) == 2
    assert max(map(len, entries(folder))) < 60
    assert torch.equal(both.rows([3], 20).tokens[H4], more.rows([3], 20).tokens[H4])


def test_other_content_other_entry(opened, tiny_classifier, tiny_tokenizer, encoded, folder):
    other_tokenizer = copy.deepcopy(tiny_tokenizer)
    other_tokenizer.add_tokens(["zebra"])
    changed, configured = tiny_classifier(), tiny_classifier()
    with torch.no_grad():
        changed.classifier.bias[0] += 1e-3
    configured.config.layer_norm_eps = 1e-6
    cases: list[dict[str, Any]] = [
        {},
        {"teacher": FrozenTeacher(tiny_classifier(seed=1))},
        {"teacher": FrozenTeacher(changed)},
        {"teacher": FrozenTeacher(configured)},
        {"teacher": FrozenTeacher(tiny_classifier(), autocast=torch.bfloat16)},
        {"data": encoded(seed=1)},
        {"data": encoded(count=41)},
        {"data": opened.data.remove_columns("attention_mask")},
        {"tokenizer": other_tokenizer},
    ]
    for number, case in enumerate(cases):
        assert opened(**case).built, number
        assert len(entries(folder)) == number + 1
    assert not any(opened(**case).built for case in cases)


def test_the_teachers_own_tokens(opened, encoded):
    both = encoded(prefix="teacher_").add_column("input_ids", [[5]] * 40)
    detected, plain = opened(data=both), opened()
    assert torch.equal(detected.logits, plain.logits)
    assert not plain.built  # the same tokens


def test_numbers_beyond_half_precision(opened, encoded, folder):
    model = opened.teacher.model
    with torch.no_grad():
        model.bert.encoder.layer[2].output.LayerNorm.bias[0] = 1e5
    with pytest.raises(ModelError, match=r"\(mean\) of layer 3 .*half precision.*--no-cache"):
        opened("mean")
    with pytest.raises(ModelError, match=r"\(hidden\.3\) .*half precision.*--no-cache"):
        opened(H2, TokenView("hidden", 3))
    assert entries(folder) == []
    assert opened(H2).built  # only what is read has to fit
    with torch.no_grad():
        model.bert.encoder.layer[2].output.LayerNorm.bias[0] = 0
        model.classifier.bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"logits .*not finite"):
        opened()
    rows = [[token if token != 60 else 59 for token in ids] for ids in opened.data["input_ids"]]
    rows[23][-1] = 60
    with torch.no_grad():
        model.classifier.bias[0] = 0
        model.bert.embeddings.word_embeddings.weight[60] = float("nan")
    data = opened.data.remove_columns("input_ids").add_column("input_ids", rows)
    with pytest.raises(ModelError, match="example 23"):
        opened(H0, data=data)
    assert len(entries(folder)) == 1


def test_ids_must_number_the_rows(opened):
    with pytest.raises(DataError, match=r"0\.\.2 once"):
        opened(data=opened.data.select([1, 2, 3]))
    with pytest.raises(DataError, match="empty"):
        opened(data=opened.data.select([]))
    with pytest.raises(DataError, match="tokenise"):
        opened(data=opened.data.remove_columns("input_ids"))


# ---- folders and disks -----------------------------------------------------------------------------------------------


def test_nothing_is_written_outside_the_folder(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODIR_CACHE", str(tmp_path / "mine"))
    outputs = opened(folder=None)
    assert outputs.files["logits"].parent.parent == default_cache_folder() == tmp_path / "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    monkeypatch.delenv("CODIR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "codir"


def test_disk_need_is_told_and_checked_first(opened, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 1000))
    monkeypatch.setattr(opened.teacher.model, "forward", None)  # not a single batch is computed
    with pytest.raises(RunError, match=r"teacher's cache needs .* has 1\.0 kB free"):
        opened("mean", H2)
    assert "40 examples take" in opened.told[0]
    assert entries(folder) == []


def test_disk_that_fills_up_while_files_are_made(opened, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match="No space left"):
        opened()
    assert entries(folder) == []


def test_folder_that_cannot_be_written(opened, encoded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="Cannot write to the folder"):
        opened(folder=tmp_path / "file" / "cache")
    opened()

    def refuse(folder):  # root may write everywhere, hence the patch
        raise RunError(f"Cannot write to the folder {folder}")

    monkeypatch.setattr("codir.teacher.cache.require_writable", refuse)
    assert not opened().built  # what is whole can be read where nothing can be written
    with pytest.raises(RunError, match="Cannot write"):
        opened(data=encoded(seed=1))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGE = {
    "truncated": ("mean.npy", lambda path: path.write_bytes(path.read_bytes()[:-64]), "bytes where"),
    "flipped": ("hidden.2.npy", _flip, "has changed"),
    "empty": ("logits.npy", lambda path: path.write_bytes(b""), "0 bytes"),
    "missing": ("hidden.2.npy", Path.unlink, "is missing"),
    "no manifest": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "bad manifest": ("manifest.json", lambda path: path.write_text('{"files": {'), "cannot be read"),
    "odd manifest": ("manifest.json", lambda path: path.write_text("[]"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_mended(damage, opened, folder):
    name, spoil, message = DAMAGE[damage]
    whole = opened("mean", H2)
    expected = whole.rows([4, 9], 20)
    spoil(whole.files["logits"].parent / name)
    mended = opened("mean", H2)
    assert mended.built == {"logits", "mean", H2}
    assert any("damaged" in line and message in line for line in opened.told)
    assert same(mended.rows([4, 9], 20), expected)
    assert not opened("mean", H2).built
    assert len(entries(folder)) == 1


def test_damage_elsewhere_in_an_entry_is_left_to_those_it_concerns(opened, folder):
    whole = opened("mean", Q2)
    _flip(whole.files[Q2])
    assert not opened("mean").built
    assert opened(Q2, H4).built == {"logits", Q2, H4}
    assert len(entries(folder)) == 1  # the damaged one is gone


# ---- processes -------------------------------------------------------------------------------------------------------


@needs_fork
def test_two_builders_compute_each_output_once(opened, folder, tmp_path):
    def work(name: str, outputs: tuple[Any, ...]) -> None:
        def slowly(done: int, total: int) -> None:
            (tmp_path / "began").touch()
            time.sleep(0.3)

        found = opened(*outputs, progress=slowly)
        (tmp_path / name).write_text(f"{sorted(map(str, found.built))} {opened.told}")

    first = begin(lambda: work("first", (TokenView("hidden", 1), H2)))
    while not (tmp_path / "began").exists():
        time.sleep(0.02)
    second = begin(lambda: work("second", (H2, TokenView("hidden", 3))))
    assert [end(first), end(second)] == [0, 0]
    assert "['hidden.1', 'hidden.2', 'logits']" in (tmp_path / "first").read_text()
    said = (tmp_path / "second").read_text()
    assert said.startswith("['hidden.3']")
    assert "Another process is computing" in said
    assert len(entries(folder)) == 2


@needs_fork
@pytest.mark.parametrize("moment", ["_sync", "write_json"])
def test_a_killed_builder_leaves_nothing_that_is_believed(opened, folder, moment):
    def work() -> None:
        at_call(store, moment, 1)()
        opened("mean", H2)

    assert forked(work) == -signal.SIGKILL
    (left,) = entries(folder)
    assert left.startswith(TEMPORARY)
    assert opened("mean", H2).built == {"logits", "mean", H2}
    (entry,) = entries(folder)
    assert fault_by(folder / entry / "manifest.json") is None


def test_without_locks_the_first_rename_counts(tmp_path: Path):
    def build(number: int) -> None:
        with new_entry(tmp_path, "key-logits", 0, {}) as create:
            create("logits", (2, 1), np.float32)[:] = number

    build(0)
    build(1)
    assert fault_by(tmp_path / "key-logits" / "manifest.json") is None
    assert np.load(tmp_path / "key-logits" / "logits.npy").tolist() == [[0], [0]]
    _flip(tmp_path / "key-logits" / "logits.npy")
    with pytest.raises(RunError, match="Cannot put"):
        build(1)
    assert entries(tmp_path) == ["key-logits"]


# ---- cached or live --------------------------------------------------------------------------------------------------


def test_cached_or_live_is_decided_by_what_tokens_take(opened):
    def source(views: tuple[TokenView, ...], **settings: Any) -> TeacherSource:
        return TeacherSource(opened.teacher, ("mean",), views, opened.data, CacheSettings(**settings))

    tokens = sum(len(ids) for ids in opened.data["input_ids"])
    needed = cache_bytes(0, 0, opened.teacher.shape, views=ALL, tokens=tokens) / 1e9
    assert source(ALL, tokens_gb=needed).cached
    assert source((), tokens_gb=0).cached
    live = source(ALL, tokens_gb=needed * 0.99)
    assert live.live is opened.teacher
    assert "kB" in live.why_live
    asked = source((), enabled=False)
    assert (asked.live, asked.cached, asked.why_live) == (opened.teacher, False, "")
