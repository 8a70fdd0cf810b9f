"""Object stores by URL, on fsspec's in-memory one: whole or absent, checked when read, clear errors."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from persim.errors import InputError
from persim.storage import objects as remote
from persim.storage import store


@pytest.fixture
def bucket():
    return store.store_path(f"memory://{uuid.uuid4().hex}/runs")


def test_local_paths_stay_as_they_are(tmp_path):
    assert store.store_path("runs") == Path("runs")
    assert store.store_path(f"file://{tmp_path}") == tmp_path
    assert not store.is_remote(store.store_path(str(tmp_path)))
    with store.local_copy(tmp_path) as same:
        assert same is tmp_path
    store.reach(tmp_path / "missing")


def test_records_and_arrays_come_back_and_changes_are_noticed(bucket):
    record, arrays = bucket / "a" / "record.json", bucket / "b" / "x.safetensors"
    store.write_record(record, "thing", {"x": [1, 2.5e-17]})
    assert store.read_record(record, "thing") == {"x": [1, 2.5e-17]}
    store.write_arrays(arrays, {"a": np.arange(3)}, "model", {"s": 1})
    found, settings = store.read_arrays(arrays, "model")
    assert found["a"].tolist() == [0, 1, 2]
    assert settings == {"s": 1}
    remote.put(record, remote.fetch(record).replace(b"2.5e-17", b"2.6e-17"))
    with pytest.raises(InputError, match="checksum"):
        store.read_record(record, "thing")
    remote.put(arrays, remote.fetch(arrays)[:-4])
    with pytest.raises(InputError, match="truncated or incomplete"):
        store.read_arrays(arrays, "model")
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)"):
        store.read_record(bucket / "none.json", "thing")


def test_a_failed_write_leaves_the_old_object(bucket, monkeypatch):
    store.write_atomic(bucket / "x", b"old")

    def cut_off(*_, **__):
        raise ConnectionError("cut off")

    monkeypatch.setattr(type(bucket.fs), "pipe_file", cut_off)
    with pytest.raises(ConnectionError):
        store.write_atomic(bucket / "x", b"new")
    assert remote.fetch(bucket / "x") == b"old"
    assert [path.name for path in bucket.glob("*")] == ["x"]


def test_writing_is_proved_and_leaves_nothing(bucket, monkeypatch):
    assert store.prepare_folder(bucket) == bucket
    assert list(bucket.glob("*")) == []

    def refused(*_, **__):
        raise PermissionError("Access Denied\nand more")

    monkeypatch.setattr(type(bucket.fs), "pipe_file", refused)
    with pytest.raises(InputError, match=r"runs' cannot be written \(Access Denied\); make the bucket"):
        store.prepare_folder(bucket)


def test_a_store_that_does_not_answer_is_refused(bucket, monkeypatch):
    def silent(*_, **__):
        raise RuntimeError("Could not connect to the endpoint")  # as botocore: no OSError

    monkeypatch.setattr(type(bucket.fs), "info", silent)
    monkeypatch.setattr(type(bucket.fs), "exists", silent)
    with pytest.raises(InputError, match=r"cannot be read \(Could not connect"):
        store.reach(bucket)


def test_a_local_copy_has_the_name_and_goes_away(bucket):
    store.write_atomic(bucket / "models" / "m.bin", b"weights")
    with store.local_copy(bucket / "models" / "m.bin") as copy:
        assert copy.name == "m.bin"
        assert copy.read_bytes() == b"weights"
    assert not copy.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3x://bucket", "did you mean 's3'"),
        ("sftp://host/runs", "has an unknown protocol"),
        ("memory://", "names no bucket; give memory://BUCKET/PREFIX"),
        ("memory:///runs", "names no bucket"),
    ],
)
def test_urls_that_cannot_be_used(text, message):
    with pytest.raises(InputError, match=message):
        store.store_path(text)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(remote, "find_spec", lambda name: None if name == "s3fs" else name)
    with pytest.raises(InputError, match=r"needs the package s3fs, which is missing; pip install 'persim\[s3\]'"):
        store.store_path("s3://bucket/runs")
