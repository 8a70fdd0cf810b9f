"""The store: whole or absent, checked when read; seeds by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from persim import seeding
from persim.errors import InputError
from persim.storage import store


def test_records_come_back_and_changes_are_noticed(tmp_path):
    path = tmp_path / "a" / "record.json"
    record = {"x": [1, 2.5e-17, None], "name": "ü"}
    store.write_record(path, "thing", record)
    assert store.read_record(path, "thing") == record
    path.write_text(path.read_text().replace("2.5e-17", "2.6e-17"))
    with pytest.raises(InputError, match="checksum"):
        store.read_record(path, "thing")
    path.write_text("{")
    with pytest.raises(InputError, match="truncated"):
        store.read_record(path, "thing")


def test_kind_and_version_are_checked(tmp_path, monkeypatch):
    path = tmp_path / "x"
    store.write_arrays(path, {"a": np.arange(3)}, "model", {})
    with pytest.raises(InputError, match="holds 'model', but 'trajectories' is wanted"):
        store.read_arrays(path, "trajectories")
    store.write_record(tmp_path / "r", "thing", {})
    monkeypatch.setattr(store, "FORMAT_VERSION", 2)
    with pytest.raises(InputError, match="format version 1"):
        store.read_arrays(path, "model")
    with pytest.raises(InputError, match="version 1"):
        store.read_record(tmp_path / "r", "thing")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    store.write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space"):
        store.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_made_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        store.prepare_folder(tmp_path / "file" / "runs")
    with pytest.raises(InputError, match="cannot be written"):
        store.prepare_folder(Path("/proc/nowhere/runs"))
    assert store.prepare_folder(tmp_path / "a" / "b").is_dir()


def test_hash_depends_on_every_part():
    base = {"a": np.arange(4, dtype=np.int64)}
    changed = [
        ({"a": np.arange(4, dtype=np.int32)}, {}),
        ({"a": np.arange(4, dtype=np.int64).reshape(2, 2)}, {}),
        ({"b": np.arange(4, dtype=np.int64)}, {}),
        (base, {"s": 1}),
    ]
    hashes = {store.content_hash(*pair) for pair in [(base, {}), *changed]}
    assert len(hashes) == 5
    assert store.content_hash(base, {}) == store.content_hash(dict(base), {})


def test_seeds_go_by_name_not_by_order():
    first = seeding.generator(7, "data", 3).random()
    seeding.generator(7, "init").random()
    assert seeding.generator(7, "data", 3).random() == first
    others = {seeding.integer(7, "data", 4), seeding.integer(7, "init", 3), seeding.integer(8, "data", 3)}
    assert seeding.integer(7, "data", 3) not in others
    assert len(others) == 3
