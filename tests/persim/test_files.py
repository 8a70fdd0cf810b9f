"""The one writer of files: checked early, whole or not at all, never in the place of anything but a regular file."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persim import console
from persim.cli import main
from persim.errors import InputError
from persim.storage import files, owners, store
from persim.storage.cells import file_name
from tests.attempts import in_the_way, precious, sandbox

DEAD = "import os; from persim.storage import owners; print(owners.mark())"


@pytest.fixture(scope="module")
def dead_mark():
    return subprocess.run([sys.executable, "-c", DEAD], capture_output=True, text=True, check=True).stdout.strip()


def test_only_a_regular_file_is_ever_replaced(tmp_path):
    here = sandbox(tmp_path / "here")
    for path in in_the_way(here):
        for write in (lambda p: store.write_atomic(p, b"x"), lambda p: store.prepare_files("--out", p)):
            with pytest.raises(InputError):
                write(here / path)
    assert precious(here)
    assert not list(here.glob(".*"))


def test_a_link_is_followed_to_the_file_that_is_replaced(tmp_path):
    (tmp_path / "own").write_text("old")
    (tmp_path / "link").symlink_to("own")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("link", "dangling"):
        store.write_atomic(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "own").read_bytes() == (tmp_path / "new").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o644


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    calls = []
    rename, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(stat.S_IFMT(os.fstat(handle).st_mode)), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *pair: (calls.append("rename"), rename(*pair)))
    store.write_atomic(tmp_path / "x", b"x")
    assert calls == [stat.S_IFREG, "rename", stat.S_IFDIR]


def test_what_a_dead_writer_left_is_removed_and_what_others_write_stays(tmp_path, dead_mark):
    root = tmp_path / "runs"
    (root / "cells").mkdir(parents=True)
    left = [root / "cells" / f".{dead_mark}.part", root / f".{dead_mark}.part"]
    alive, strange = root / "cells" / f".{owners.mark()}.part", root / "cells" / ".x.json.abcd.part"
    old = root / "cells" / ".old.part"
    for path in (*left, alive, strange, old):
        path.write_text("")
    (root / f".{dead_mark}.x.part").mkdir()
    os.utime(old, (time.time() - 1e6,) * 2)
    store.prepare_folder(root)
    assert sorted(path.name for path in (root / "cells").iterdir()) == sorted([alive.name, strange.name])
    assert [path.name for path in root.iterdir()] == ["cells"]


def test_a_mark_says_who_is_dead(dead_mark):
    assert owners.is_left(f"x-{dead_mark}")
    assert not owners.is_left(owners.mark())
    assert not owners.is_left("no mark")
    place, pid, _, rest = owners.mark().split("-")
    assert owners.is_left(f"{place}-{pid}-1-{rest}")  # another process had the number
    assert not owners.is_left(f"{'0' * 12}-{pid}-1-{rest}")  # of another machine
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while owners.is_alive(zombie.pid):
        time.sleep(0.01)
    assert Path(f"/proc/{zombie.pid}").exists()
    zombie.wait()


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "..", "", "a\0b", "x" * 300, "ü" * 200, "a/../b", "$x", "a b"])
def test_a_name_becomes_a_part_of_a_path_that_leads_nowhere_else(name, tmp_path):
    made = file_name("rank", name, 5) if name else file_name(name)
    assert (tmp_path / made).parent == tmp_path
    assert len(made.encode()) < 200
    assert made != file_name("rank", name + "x", 5)


def test_usual_names_stay_as_they_are():
    assert file_name("cartpole", "pure-eps-20", 500) == "cartpole-pure-eps-20-500"
    assert file_name("my.module:SPEC") == "my.module.SPEC"


SMALL = ["--env", "cartpole", "--agents", "6", "--epochs", "1", "--members", "2", "--candidates", "2"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["collect", "--env", "cartpole", "--agents", "6"], "--out"),
        (["predict", *SMALL], "--save-model"),
        (["synthesise", *SMALL], "--out"),
        (["train-policies", "--env", "cartpole", "--policies", "1"], "--out"),
        (["render", *SMALL], "--out"),
    ],
)
def test_outputs_are_checked_before_anything_is_computed(words, option, tmp_path, monkeypatch, capsys):
    here = sandbox(tmp_path / "here")
    monkeypatch.chdir(here)
    folders = ["file", "pipe", "device", "/dev/null", "n" * 300]
    whole = [*folders, "folder", "."] if option == "--save-model" or words[0] in ("collect", "synthesise") else folders
    known = set(here.rglob("*"))
    for path in whole:
        began = time.process_time()
        if path == "device" and os.geteuid() != 0:
            continue
        assert console.run(main, [*words, option, path if path != "file" else "file/x"]) == 2, path
        assert capsys.readouterr().err.count("\n") == 1
        assert time.process_time() - began < 5
    assert precious(here)
    assert set(here.rglob("*")) == known


def test_a_disk_without_room_is_found_when_a_folder_is_prepared(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(InputError, match="No space left"):
        store.prepare_folder(tmp_path / "new")
    assert os.listdir(tmp_path) == []
