"""MLflow's SQLite database: whole or absent, whatever kills the command that makes it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from persim.errors import InputError
from sweeps.tracking import access
from sweeps.tracking.mirror import default_uri
from tests.sweeps.mlflow_helpers import grid, mirror, reward, runs

PROGRAM = """
import sys, time
from pathlib import Path
from sweeps.tracking import access
from sweeps.tracking.mirror import Mirror
mirror = Mirror(None, Path(sys.argv[1]), "here")
print("connected", flush=True)
time.sleep(float(sys.argv[2]))
sys.exit(min(1, mirror.close()))
"""


def start(root, seconds=0.0):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), str(seconds)], stdout=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def until(condition):
    while not condition():
        time.sleep(0.005)


def tables(path):
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return len(database.execute("SELECT name FROM sqlite_master").fetchall())
    except sqlite3.Error:
        return 0


def check_whole(root):
    """The next command finds no harm done: it makes the database, sends everything, and leaves no rest behind."""
    grid(root, reward())
    last = start(root)
    assert (last.communicate()[0], last.returncode) == ("connected\n", 0)
    assert len(runs(default_uri(root), "reward")[2]) == 1
    assert {path.name for path in root.iterdir() if path.name.startswith("mlflow")} == {"mlflow.db"}


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path):
    process = start(tmp_path)
    until(lambda: any(tables(part) > 5 for part in tmp_path.glob("mlflow.db.*.part")) or process.poll() is not None)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    assert [*tmp_path.glob("mlflow.db.*.part")]
    assert not (tmp_path / "mlflow.db").exists()
    check_whole(tmp_path)


@pytest.mark.slow
def test_kills_at_any_moment_of_the_first_seconds_do_no_harm(tmp_path):
    began = time.monotonic()
    whole = start(tmp_path / "measured")
    whole.communicate()
    length = time.monotonic() - began
    for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
        process = start(tmp_path / "store")
        time.sleep(share * length)
        kill(process)
        database = tmp_path / "store" / "mlflow.db"
        if database.exists():  # renamed already, so whole
            with closing(sqlite3.connect(database)) as found:
                assert found.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
            database.unlink()
    check_whole(tmp_path / "store")


@pytest.fixture(scope="module")
def half_made(tmp_path_factory):
    """What version 0.1 left behind when it was killed: MLflow's own first seconds, without our lock and rename."""
    path = tmp_path_factory.mktemp("half") / "mlflow.db"
    program = f"from mlflow import MlflowClient; MlflowClient(tracking_uri='sqlite:///{path}').search_experiments()"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    until(lambda: tables(path) > 8 or process.poll() is not None)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    return path


def test_a_half_made_database_is_moved_aside_and_made_anew(half_made, tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    shutil.copy(half_made, path)
    for name in (f"mlflow.db.{2**22}.part", f"mlflow.db.{2**22}.part-journal"):
        (tmp_path / name).write_bytes(b"rest of a dead process")
    grid(tmp_path, reward())
    assert mirror(None, tmp_path).close() == 0
    assert [record.message for record in caplog.records] == [
        f"MLflow's database {path} was never finished, and is empty; moved to mlflow.db.broken"
    ]
    assert len(runs(default_uri(tmp_path), "reward")[2]) == 1
    assert sorted(os.listdir(tmp_path)) == ["cells", "mlflow.db", "mlflow.db.broken", "requests"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", True),
        ("CREATE TABLE experiments (name)", True),
        ("CREATE TABLE experiments (name); CREATE TABLE alembic_version (v);"
         "INSERT INTO alembic_version VALUES (1)", True),
        ("CREATE TABLE experiments (name); INSERT INTO experiments VALUES (1); CREATE TABLE alembic_version (v)", True),
        ("CREATE TABLE runs (name); CREATE TABLE _alembic_tmp_experiments (name)", True),
        ("CREATE TABLE experiments (name); INSERT INTO experiments VALUES (1);"
         "CREATE TABLE alembic_version (v); INSERT INTO alembic_version VALUES (1)", False),
        ("CREATE TABLE studies (name); CREATE TABLE alembic_version (v)", False),  # of another program
    ],
)  # fmt: skip
def test_only_a_database_without_any_experiment_counts_as_half_made(script, expected, tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.executescript(script)
    assert access._is_half_made(tmp_path / "x.db") is expected


@pytest.mark.parametrize("kind", ["folder", "text"])
def test_what_cannot_be_opened_is_one_line_at_once(kind, tmp_path):
    path = tmp_path / "mlflow.db"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("no database" * 1000)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"(unable to open|is not a) database") as error:
        mirror(None, tmp_path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 10
    assert path.exists()
