from __future__ import annotations

import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from codir.errors import DataError, ModelError, RunError
from codir.models.padding import pad_batch
from codir.models.representations import EncoderShape
from codir.teacher.cache import cache_bytes, default_cache_folder, open_cache
from codir.teacher.frozen import FrozenTeacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_equals_the_live_teacher(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier(labels=("a", "b", "c")), logit_order=(1, 2, 0))
    data = encoded()
    outputs = open_cache(
        teacher, data, tokenizer=tiny_tokenizer, poolings=["mean", "cls"], folder=folder, batch_size=7
    )
    assert outputs.built
    assert len(outputs) == 40
    ids = torch.tensor([31, 0, 5, 5, 39])
    live = teacher.represent(pad_batch([data[int(n)] for n in ids], tiny_tokenizer), ["mean", "cls"])
    cached = outputs.rows(ids)
    torch.testing.assert_close(cached.logits, live.logits, atol=1e-5, rtol=1e-5)
    for how in ("mean", "cls"):
        assert cached.pooled[how].dtype == torch.float32
        assert cached.pooled[how].shape == (5, 4, 32)
        # half precision keeps 11 bits: a relative error of at most 2^-11 (and the order of summation)
        torch.testing.assert_close(cached.pooled[how], live.pooled[how], atol=1e-5, rtol=2**-11)
        assert not torch.equal(cached.pooled[how], live.pooled[how])
    assert torch.equal(outputs.logits[ids], cached.logits)


def test_rows_follow_example_ids_not_positions(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    plain = open_cache(teacher, data, tokenizer=tiny_tokenizer, folder=folder)
    mixed = open_cache(teacher, data.shuffle(seed=1), tokenizer=tiny_tokenizer, folder=folder)
    torch.testing.assert_close(plain.logits, mixed.logits)


def test_types_shapes_and_space(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier())
    outputs = open_cache(teacher, encoded(), tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder)
    space = outputs.space("mean")
    assert isinstance(space, np.memmap)
    assert not space.flags.writeable
    assert (space.shape, space.dtype) == ((40, 128), np.float16)
    assert np.array_equal(space[3].reshape(4, 32), outputs.rows([3]).pooled["mean"][0].numpy())
    assert np.load(outputs.folder / "logits.npy").dtype == np.float32
    assert outputs.shape == EncoderShape(4, 32)
    with pytest.raises(KeyError, match="'cls'"):
        outputs.space("cls")
    assert outputs.rows([1], poolings=[]).pooled == {}
    for bad in ([40], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.39"):
            outputs.rows(bad)
    assert outputs.rows([]).logits.shape == (0, 2)


def test_computed_once(tiny_classifier, tiny_tokenizer, encoded, folder, monkeypatch):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    first = open_cache(teacher, data, tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder)
    monkeypatch.setattr(teacher.model, "forward", None)  # a second pass would fail
    # a model loaded anew from elsewhere, other order of classes: the same content
    again = FrozenTeacher(tiny_classifier(), logit_order=(1, 0))
    again.model.config._name_or_path = "elsewhere"
    again.model.config.id2label = {0: "no", 1: "yes"}
    monkeypatch.setattr(again.model, "forward", None)
    second = open_cache(again, data, tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder)
    assert (first.built, second.built) == (True, False)
    assert torch.equal(second.logits, first.logits[:, [1, 0]])


def test_poolings_are_found_in_larger_entries(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()

    def open_with(*poolings):
        return open_cache(teacher, data, tokenizer=tiny_tokenizer, poolings=poolings, folder=folder)

    assert open_with("mean").built
    assert not open_with().built
    assert open_with("cls").built
    assert open_with("cls", "mean").built
    assert not open_with("mean", "cls", "mean").built
    assert len(entries(folder)) == 3


def test_other_content_other_entry(tiny_classifier, tiny_tokenizer, encoded, folder):
    import copy

    data = encoded()
    other_tokenizer = copy.deepcopy(tiny_tokenizer)
    other_tokenizer.add_tokens(["zebra"])
    changed = tiny_classifier()
    with torch.no_grad():
        changed.classifier.bias[0] += 1e-3
    configured = tiny_classifier()
    configured.config.layer_norm_eps = 1e-6
    cases = [
        (FrozenTeacher(tiny_classifier()), data, tiny_tokenizer),
        (FrozenTeacher(tiny_classifier(seed=1)), data, tiny_tokenizer),
        (FrozenTeacher(changed), data, tiny_tokenizer),
        (FrozenTeacher(configured), data, tiny_tokenizer),
        (FrozenTeacher(tiny_classifier(), autocast=torch.bfloat16), data, tiny_tokenizer),
        (FrozenTeacher(tiny_classifier()), encoded(seed=1), tiny_tokenizer),
        (FrozenTeacher(tiny_classifier()), encoded(count=41), tiny_tokenizer),
        (FrozenTeacher(tiny_classifier()), data.remove_columns("attention_mask"), tiny_tokenizer),
        (FrozenTeacher(tiny_classifier()), data, other_tokenizer),
    ]
    for number, (teacher, examples, tokenizer) in enumerate(cases):
        assert open_cache(teacher, examples, tokenizer=tokenizer, folder=folder).built, number
        assert len(entries(folder)) == number + 1
    for teacher, examples, tokenizer in cases:
        assert not open_cache(teacher, examples, tokenizer=tokenizer, folder=folder).built


def test_the_tokenizers_last_use_does_not_matter(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier())
    open_cache(teacher, encoded(), tokenizer=tiny_tokenizer, folder=folder)
    tiny_tokenizer(["the cat", "a"], truncation=True, max_length=3, padding="max_length")
    assert not open_cache(teacher, encoded(), tokenizer=tiny_tokenizer, folder=folder).built


def test_the_teachers_own_tokens(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher, own = FrozenTeacher(tiny_classifier()), encoded(prefix="teacher_")
    both = own.add_column("input_ids", [[5]] * 40)
    detected = open_cache(teacher, both, tokenizer=tiny_tokenizer, folder=folder)
    plain = open_cache(teacher, encoded(), tokenizer=tiny_tokenizer, folder=folder)
    assert torch.equal(detected.logits, plain.logits)
    assert not plain.built  # the same tokens
    students = open_cache(teacher, both, tokenizer=tiny_tokenizer, folder=folder, prefix="")
    assert not torch.allclose(students.logits, plain.logits)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-64])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGE = {
    "truncated": ("mean.npy", _truncate, "bytes where"),
    "flipped": ("mean.npy", _flip, "has changed"),
    "flipped logits": ("logits.npy", _flip, "has changed"),
    "empty": ("logits.npy", lambda path: path.write_bytes(b""), "0 bytes"),
    "missing": ("mean.npy", Path.unlink, "is missing"),
    "no manifest": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "bad manifest": ("manifest.json", lambda path: path.write_text('{"files": {'), "cannot be read"),
    "odd manifest": ("manifest.json", lambda path: path.write_text("[]"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_mended(damage: str, tiny_classifier, tiny_tokenizer, encoded, folder):
    name, spoil, message = DAMAGE[damage]
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    told: list[str] = []

    def open_it():
        return open_cache(
            teacher, data, tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder, report=told.append
        )

    whole = open_it()
    expected, space = whole.logits, np.array(whole.space("mean"))
    spoil(whole.folder / name)
    told.clear()
    mended = open_it()
    assert mended.built
    assert any("damaged" in line and message in line for line in told)
    assert torch.equal(mended.logits, expected)
    assert np.array_equal(mended.space("mean"), space)
    assert not open_it().built


def test_damaged_larger_entries_are_removed(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    both = open_cache(teacher, data, tokenizer=tiny_tokenizer, poolings=["mean", "cls"], folder=folder)
    _flip(both.folder / "cls.npy")
    open_cache(teacher, data, tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder)
    assert [name.split("-")[1] for name in entries(folder)] == ["mean"]


def test_disk_need_is_told_and_checked_first(tiny_classifier, tiny_tokenizer, encoded, folder, monkeypatch):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 1000))
    monkeypatch.setattr(teacher.model, "forward", None)  # not a single batch is computed
    told: list[str] = []
    with pytest.raises(RunError, match=r"teacher's cache needs .* has 1\.0 kB free"):
        open_cache(
            teacher, data, tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder, report=told.append
        )
    assert "40 examples take" in told[0]
    assert entries(folder) == []


def test_predicted_size_is_the_real_one(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier())
    outputs = open_cache(
        teacher, encoded(), tokenizer=tiny_tokenizer, poolings=["mean", "cls"], folder=folder
    )
    real = sum(path.stat().st_size for path in outputs.folder.iterdir())
    predicted = cache_bytes(40, 2, teacher.shape, ["mean", "cls"])
    assert real <= predicted <= real + 4096


def test_disk_that_fills_up_while_files_are_made(
    tiny_classifier, tiny_tokenizer, encoded, folder, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match="No space left"):
        open_cache(FrozenTeacher(tiny_classifier()), encoded(), tokenizer=tiny_tokenizer, folder=folder)
    assert entries(folder) == []


def test_folder_that_cannot_be_written(tiny_classifier, tiny_tokenizer, encoded, tmp_path, monkeypatch):
    teacher, data = FrozenTeacher(tiny_classifier()), encoded()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="Cannot write to the folder"):
        open_cache(teacher, data, tokenizer=tiny_tokenizer, folder=tmp_path / "file" / "cache")
    # a whole entry can be read where nothing can be written (root may write everywhere, hence the patch)
    open_cache(teacher, data, tokenizer=tiny_tokenizer, folder=tmp_path / "cache")

    def refuse(folder):
        raise RunError(f"Cannot write to the folder {folder}")

    monkeypatch.setattr("codir.teacher.cache.require_writable", refuse)
    assert not open_cache(teacher, data, tokenizer=tiny_tokenizer, folder=tmp_path / "cache").built
    with pytest.raises(RunError, match="Cannot write"):
        open_cache(teacher, encoded(seed=1), tokenizer=tiny_tokenizer, folder=tmp_path / "cache")


def test_numbers_beyond_half_precision(tiny_classifier, tiny_tokenizer, encoded, folder):
    model = tiny_classifier()
    with torch.no_grad():
        model.bert.encoder.layer[2].output.LayerNorm.bias[0] = 1e5
    with pytest.raises(ModelError, match=r"block 3 .*half precision.*--no-cache"):
        open_cache(
            FrozenTeacher(model), encoded(), tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder
        )
    assert entries(folder) == []
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"logits .*not finite"):
        open_cache(FrozenTeacher(model), encoded(), tokenizer=tiny_tokenizer, folder=folder)
    assert entries(folder) == []


def test_ids_must_number_the_rows(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier())
    with pytest.raises(DataError, match=r"0\.\.2 once"):
        open_cache(teacher, encoded().select([1, 2, 3]), tokenizer=tiny_tokenizer, folder=folder)
    with pytest.raises(DataError, match="empty"):
        open_cache(teacher, encoded().select([]), tokenizer=tiny_tokenizer, folder=folder)
    with pytest.raises(DataError, match="tokenise"):
        open_cache(teacher, encoded().remove_columns("input_ids"), tokenizer=tiny_tokenizer, folder=folder)


def test_default_folder(tiny_classifier, tiny_tokenizer, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("CODIR_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder() == tmp_path / "mine"
    outputs = open_cache(FrozenTeacher(tiny_classifier()), encoded(), tokenizer=tiny_tokenizer)
    assert outputs.folder.parent == tmp_path / "mine"
    monkeypatch.delenv("CODIR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "codir"


def test_nothing_is_written_outside_the_folder(
    tiny_classifier, tiny_tokenizer, encoded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    open_cache(
        FrozenTeacher(tiny_classifier()), encoded(), tokenizer=tiny_tokenizer, folder=tmp_path / "a" / "cache"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["cache"]


def test_workers_map_the_files_themselves(tiny_classifier, tiny_tokenizer, encoded, folder):
    teacher = FrozenTeacher(tiny_classifier())
    outputs = open_cache(teacher, encoded(), tokenizer=tiny_tokenizer, poolings=["mean"], folder=folder)
    sent = pickle.dumps(outputs)
    assert len(sent) < 1500
    assert torch.equal(pickle.loads(sent).rows([4]).pooled["mean"], outputs.rows([4]).pooled["mean"])
