"""What an attack on the sweeps found: sockets, killed processes, addresses, databases, files that name code."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from persim import console
from persim.cli import main as persim
from persim.data import collect_regime
from persim.envs import get, registry
from persim.errors import InputError
from persim.evaluation.pictures import save_png
from persim.learning.model import LowRankDynamics, ModelSettings
from persim.learning.training import TrainSettings, train
from persim.storage import owners, store
from persim.storage.cells import CellStore, Request
from sweeps import benchmark, rank_cv, report, tune
from sweeps.engine import leftovers
from sweeps.engine.lock import file_lock
from sweeps.tracking.access import connect
from tests.sweeps.mlflow_helpers import reward

SESSION = """
import sys, time
from sweeps.engine.session import ray_session
with ray_session(None, 1):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    time.sleep(float(sys.argv[1]))
print("ended")
"""


def started(folder, seconds=600):
    """A local Ray in a process of its own, whose temporary folder is this one; with the address that it prints."""
    words = [sys.executable, "-c", SESSION, str(seconds)]
    process = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    address = process.stdout.readline().strip()
    assert address, process.communicate()[1]
    return process, address


def tree(pid):
    """This process and all below it."""
    below = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, below[::2]), map(int, below[1::2]), strict=True))
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def named(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def short():
    """A temporary folder with a short name: those of pytest are too long for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_local_ray_listens_on_loopback_only_and_refuses_others(short, tmp_path, monkeypatch, capsys):
    process, address = started(short)
    try:
        own = tree(process.pid)
        shown = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
        ports = [line.split()[3] for line in shown if {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & own]
        assert len(ports) >= 4  # gcs, raylet, driver, workers
        assert [port for port in ports if not re.match(r"(\[::ffff:)?127\.|\[::1\]", port)] == []

        # A command of somebody else, who does not know the token: one line, within seconds, and nothing written.
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
        for where in (address, "auto"):
            began = time.monotonic()
            assert console.run(rank_cv.main, ["--env", "cartpole", "--agents", "6", "--address", where]) == 2
            assert time.monotonic() - began < 90
            err = capsys.readouterr().err
            assert "no Ray cluster answers" in err
            assert err.count("\n") == 1
        assert os.listdir(tmp_path) == []
    finally:
        process.kill()
        process.communicate()
    # Killed like that, it leaves its folder, which the next session removes with the processes that write there.
    (left,) = short.glob("persim-ray-*")
    assert owners.is_left((left / "owner").read_text())
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    leftovers.remove_temporary()
    assert not left.exists()
    assert leftovers._with_files_in(left) == []


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_ray_that_loses_a_part_ends_with_a_line(part, short):
    process, _ = started(short)
    (victim,) = (pid for pid in tree(process.pid) if f"/{part}\0" in named(pid))
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert f"error: Ray's {part} ended" in err
    assert "Traceback" not in out + err  # a busy machine makes Ray say on stdout that it starts many workers
    assert list(short.glob("persim-ray-*")) == []


def test_folders_of_ray_of_the_living_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("alive", "new"):
        (tmp_path / f"persim-ray-{name}").mkdir()
    leftovers.own(tmp_path / "persim-ray-alive")
    leftovers.remove_temporary()
    assert len(os.listdir(tmp_path)) == 2


def test_locks_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    (tmp_path / "left.lock").write_text("")
    with file_lock(tmp_path / "held.lock", wait=False):
        leftovers.remove_locks(tmp_path)
        assert os.listdir(tmp_path) == ["held.lock"]
        with pytest.raises(BlockingIOError), file_lock(tmp_path / "held.lock", wait=False):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_a_database_in_memory_is_refused(uri):
    with pytest.raises(InputError, match="in memory"):
        connect(uri, "file:///tmp/x")


def test_a_password_is_never_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for uri in ("http://me:geheim@127.0.0.1:9", "mysql://me:geheim@127.0.0.1/db", "nonsense://me:geheim@h"):
        assert console.run(rank_cv.main, ["--env", "cartpole", "--agents", "6", "--tracking-uri", uri]) == 2
        printed = "".join(capsys.readouterr())
        assert "geheim" not in printed
    assert os.listdir(tmp_path) == []


TOUCH = """
from pathlib import Path
Path({mark!r}).write_text("")
from persim.envs import get
from dataclasses import replace
S = replace(get("cartpole"), name="theirs")
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported."""
    name, mark = f"theirs_{secrets_of(tmp_path)}", tmp_path / "mark"
    (tmp_path / f"{name}.py").write_text(TOUCH.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_LOADED", {})
    return f"{name}:S", mark


def secrets_of(path):
    return str(abs(hash(path)))


def test_a_file_never_starts_code(theirs, tmp_path, monkeypatch, capsys):
    env, mark = theirs
    model = LowRankDynamics(ModelSettings(6, 4, 2, True, 2), [np.random.SeedSequence(0)])
    model.save(tmp_path / "m", env=env, regime="random", agents=6, seed=0)
    assert console.run(persim, ["diagnose", "--model", str(tmp_path / "m")]) == 2
    assert f"names the environment '{env}', which is not built in" in capsys.readouterr().err
    assert not mark.exists()

    cells = CellStore(tmp_path / "runs")
    done = reward(agents=500)
    strange = replace(done, cell=replace(done.cell, env=env))
    cells.finish(strange)
    cells.ask(Request("planners", "paper", (strange.cell.id,)))
    console.run(report.main, ["--store", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()

    assert console.run(persim, ["diagnose", "--model", str(tmp_path / "m"), "--env", env]) == 0
    assert mark.exists()


def test_what_is_refused_leaves_no_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--env", "cartpole", "--agents", "6", "--store", "X"]
    for main, words in (
        (persim, ["evaluate", *small, "--precision", "nope"]),
        (persim, ["evaluate", *small, "--rollout", "nope"]),
        (persim, ["synthesise", *small, "--prior", "nope", "--out", "y"]),
        (persim, ["render", *small, "--policy", "cem", "--precision", "nope"]),
        (tune.main, [*small, "--space", "missing.yaml", "--print-space"]),
        (tune.main, ["--env", "cartpole", "--print-space", "--epochs", "-5"]),
        (benchmark.main, ["--suite", "smoke", "--precision", "nope", "--store", "X"]),
        (benchmark.main, ["--suite", "smoke", "--trials", "10000000", "--dry-run"]),
        (persim, ["predict", *small, "--candidates", "10000000000"]),
        (persim, ["predict", *small, "--rank", "²"]),
        (persim, ["predict", *small, "--rank", "9" * 40]),
    ):
        began = time.process_time()
        assert console.run(main, words) == 2, words
        assert capsys.readouterr().err.count("\n") == 1
        assert time.process_time() - began < 10
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["/../../x", "a\0b", "$x", "", "..", "a b"])
def test_rows_with_names_that_are_none_are_refused(name):
    with pytest.raises(InputError, match="regime"):
        replace(reward(agents=500).cell, regime=name)


def test_a_name_that_begins_no_formula_is_drawn(tmp_path):
    figure = Figure()
    figure.subplots().set_title("cost in $_{")
    save_png(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_a_model_has_the_agents_of_its_data_and_no_others(cartpole_data):
    model = LowRankDynamics(ModelSettings(12, 4, 2, True, 2), [np.random.SeedSequence(0)])
    for agent in (12, -1):
        with pytest.raises(InputError, match=r"agents are not all in 0\.\.11"):
            model(torch.tensor([0, agent]), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    seven = collect_regime(get("cartpole"), "random", 13, 0)
    with pytest.raises(InputError, match="make one for these data"):
        train(model, seven, TrainSettings(1), [np.random.SeedSequence(0)])


def test_a_record_of_a_sweep_or_study_of_another_form_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--env", "cartpole", "--agents", "6", "--ranks", "2"]
    for settings in ({}, {"env": "cartpole"}, {"env": "os:path", "ranks": [1]}, [1], None):
        store.write_record(tmp_path / "runs/sweeps/cartpole-x.json", "sweep", {"settings": settings, "finished": False})
        assert console.run(rank_cv.main, [*words, "--resume"]) == 2
        assert "Traceback" not in capsys.readouterr().err
