"""What computed a cell: known texts give known answers, and it is written down without entering any id."""

from dataclasses import replace

import numpy as np
import torch

import persim
from baselines.registry import make_method
from persim.envs import get
from persim.methods import Options
from persim.methods.job import Job, predictions
from persim.methods.measure import compute, finished_cell
from persim.storage import machine as machines
from persim.storage import store
from persim.storage.cells import CellStore, read_finished
from persim.storage.machine import joined, machine

CPU_INFO = """processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Some Xeon
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_tile

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
PIECE = {"rows": [], "decision_ms": None, "started": 0, "ended": 1, "curves": {}, "train_seconds": 0.0}


def test_the_cpu_and_its_vector_instructions_are_read_from_linux():
    wanted = "Some Xeon (family 6, model 143)", "amx_tile avx2 avx512_bf16 avx512f fma"
    assert machines._cpu(CPU_INFO) == wanted
    assert machines._cpu("Features\t: fp asimd sve\n")[1] == "asimd sve"
    assert machines._cpu("")[1] == "unknown"


def test_the_blas_is_read_from_numpy_and_torch():
    config = {"Build Dependencies": {"blas": {"name": "scipy-openblas", "version": "0.3.31"}}}
    assert machines._numpy_blas(config) == "scipy-openblas 0.3.31"
    assert machines._numpy_blas(None) == machines._torch_blas("") == "unknown"
    text = "Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build\n BLAS_INFO=mkl, BUILD_TYPE=Release"
    assert machines._torch_blas(text) == "mkl 2024.2"
    assert machines._torch_blas("BLAS_INFO=open, BUILD_TYPE=Release") == "open"


def test_this_machine_is_described_once():
    here = machine()
    assert machine() is here
    assert (here["numpy"], here["persim"], here["device"]) == (np.__version__, persim.__version__, "cpu")
    assert here["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(here) >= {"cpu", "instructions", "blas_numpy", "blas_torch", "python", "gymnasium", "mujoco"}
    assert all(isinstance(text, str) and text for text in here.values())


def test_machines_that_differ_stand_side_by_side():
    one, two = {"cpu": "A", "numpy": "2"}, {"cpu": "B", "numpy": "2"}
    both = {"cpu": "A | B", "numpy": "2"}
    assert joined([two, one]) == joined([both, one]) == both
    assert joined([one, {}]) == {"cpu": "A | unknown", "numpy": "2 | unknown"}
    assert joined([{}, {}]) == joined([]) == {}


def small_job():
    spec = get("cartpole")
    method = make_method("persim", spec, Options("smoke", rank=2))
    return Job.of(method, "cartpole", "random", 6, 0, predictions(spec))


def test_a_finished_cell_says_what_computed_it_and_its_id_does_not_depend_on_it(tmp_path, monkeypatch):
    job, cells = small_job(), CellStore(tmp_path)
    assert compute(job, cells).machine == machine()
    path = cells.record_path(job.cell.id)
    assert read_finished(path).machine == machine()

    def elsewhere(device="cpu"):
        return {**machine(device), "cpu": "Another"}

    monkeypatch.setattr("persim.methods.measure.machine", elsewhere)
    path.unlink()
    again = compute(small_job(), cells)  # the weights were trained above
    assert again.machine == {**machine(), "cpu": " | ".join(sorted(("Another", machine()["cpu"])))}
    assert (again.cell.id, again.rows) == (job.cell.id, read_finished(path).rows)


def test_records_of_before_are_read_and_unknown_pieces_are_said(tmp_path):
    job, cells = small_job(), CellStore(tmp_path)
    known = finished_cell(job, [{**PIECE, "machine": {"cpu": "A"}}, PIECE])
    assert known.machine == {"cpu": "A | unknown"}
    cells.finish(known)
    path = cells.record_path(job.cell.id)
    record = {name: value for name, value in store.read_record(path, "cell").items() if name != "machine"}
    store.write_record(path, "cell", record)
    assert read_finished(path) == replace(known, machine={})
