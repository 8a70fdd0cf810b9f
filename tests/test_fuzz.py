"""Hostile input of every kind against every command: one line, a status of 0, 1, 2 or 70, and nothing left behind.

The ordinary suite makes a few hundred seeded attempts, ``pytest -m slow tests/test_fuzz.py`` as many as ``FUZZ_TRIES``
says (1000). ``tests/test_full_disk.py`` has a small full disk, ``tests/sweeps/test_kills.py`` the kills.
"""

import dataclasses
import os
import shutil
import sys
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

from persim.cli import main as persim
from persim.data import Trajectories, collect_regime
from persim.envs import get
from persim.envs.trial import check_functions
from persim.errors import InputError
from persim.learning.model import KIND as MODEL
from persim.learning.model import LowRankDynamics
from persim.storage import store
from persim.storage.cells import read_finished, read_request
from sweeps import benchmark, figures, rank_cv, report, tune
from sweeps.tuning.space import Space
from tests import hostile
from tests.attempts import attempt, in_the_way, precious, sandbox

DATA = ["--env", "cartpole", "--agents", "6"]
SHORT = [*DATA, "--epochs", "1", "--members", "2", "--candidates", "2", "--polish", "0"]
TRAIN = [*SHORT, "--store", "runs"]
READ = [*DATA, "--model", "{}/model", "--store", "runs"]
PLAN = ["--plans", "4", "--horizon", "2"]
BASES = [
    (persim, ["collect", *DATA, "--regime", "random", "--seed", "0", "--out", "out"]),
    (persim, ["predict", *READ, "--regime", "random", "--seed", "0", "--rank", "5", "--save-model", "out"]),
    (persim, ["predict", *TRAIN, "--average-last", "0", "--ridge", "1e-8", "--nets", "paper", "--device", "cpu"]),
    (persim, ["diagnose", "--model", "{}/model", "--data", "{}/data", "--plot", "out.png"]),
    (persim, ["evaluate", *READ, *PLAN, "--episodes", "1", "--seeds", "0", "--agents-to-test", "1", "--planner", "cem",
              "--rollout", "mean", "--penalty", "1", "--prior", "off", "--precision", "float32", "--scorer", "model"]),
    (persim, ["synthesise", *READ, *PLAN, "--per-agent", "1", "--agents-to-test", "1", "--seed", "0", "--out", "out"]),
    (persim, ["render", *READ, *PLAN, "--policy", "random", "--agents-to-test", "1", "--seed", "0", "--out", "drawn"]),
    (persim, ["train-policies", "--env", "cartpole", "--policies", "x", "--jobs", "1", "--seed", "0", "--out", "out"]),
    (benchmark.main, ["--suite", "smoke", "--envs", "cartpole", "--regimes", "random", "--methods", "true-env",
                      "--agents", "6", "--trials", "1", "--preset", "smoke", "--episodes", "1", "--rank", "paper",
                      "--seed", "0", "--cpus", "1", "--store", "runs", "--tracking-uri", "x", "--dry-run"]),
    (rank_cv.main, [*DATA, "--regime", "random", "--ranks", "2,3", "--repeats", "1", "--epochs", "1",
                    "--holdout", "0.2", "--holdout-by", "blocks", "--error", "multi-step", "--steps", "5",
                    "--seed", "0", "--store", "runs", "--cpus", "1", "--gpu-share", "0.5", "--device", "cpu"]),
    (tune.main, [*DATA, "--regime", "random", "--objective", "reward", "--trials", "2", "--epochs", "1",
                 "--members", "1", "--episodes", "1", "--holdout", "0.2", "--seed", "0", "--store", "runs",
                 "--cpus", "1"]),
    (tune.main, ["--env", "cartpole", "--objective", "holdout", "--epochs", "2", "--print-space"]),
    (report.main, ["--store", "{}/store", "--suite", "prediction", "--price", "1", "--out", "out"]),
    (figures.main, ["--store", "{}/store", "--agents", "6", "--seed", "0", "--out", "out", "--pictures", "pictures"]),
]  # fmt: skip
RECORDS = [  # a file of a store, the commands that read it
    ("cells", [(report.main, ["--store", "{}", "--out", "out"]), (persim, ["predict", *SHORT, "--store", "{}"])]),
    ("requests", [(report.main, ["--store", "{}", "--out", "out"]), (persim, ["predict", *SHORT, "--store", "{}"])]),
    ("choices", [(persim, ["predict", *SHORT, "--rank", "auto", "--store", "{}"]),
                 (persim, ["predict", *SHORT, "--settings", "tuned", "--store", "{}"]),
                 (benchmark.main, ["--suite", "prediction", "--envs", "cartpole", "--regimes", "random",
                                   "--agents", "6", "--trials", "1", "--settings", "tuned", "--store", "{}",
                                   "--dry-run"])]),
    ("models", [(persim, ["diagnose", "--model", "{}"]), (persim, ["predict", *DATA, "--model", "{}"])]),
]  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A small store with a measured cell, choices of rank and settings, a model, and data; forks need them warm."""
    folder = tmp_path_factory.mktemp("given")
    words = [word.replace("runs", str(folder / "store")) for word in TRAIN]
    status = attempt(
        persim, ["predict", *words, "--save-model", str(folder / "model")], sandbox(folder / "here"), seconds=200
    )
    assert status.status == 0, status.err
    collect_regime(get("cartpole"), "random", 6, 0).save(folder / "data")
    about = {"env": "cartpole", "regime": "random", "agents": 6}
    choices = folder / "store" / "choices"
    store.write_record(
        choices / "rank-cartpole-random-6.json", "rank-choice", {"rank": 3, "settings": about, "table": []}
    )
    best = {"rank": 3, "train": {"epochs": 1, "batch_size": 64}, "nets": {"state_widths": [8], "normalised": True}}
    tuned = {**about, "method": "persim", "objective": "holdout", "best": best, "value": 1.0}
    store.write_record(choices / "tuned-cartpole-random-6-holdout.json", "tuned-settings", tuned)
    hostile.write_modules(folder)
    return folder


def stop_before_ray():
    """In the process of an attempt: neither Ray nor MLflow starts, which take long and have tests of their own."""
    from sweeps import options
    from sweeps.tracking import mirror

    class Deaf:
        uri = "nowhere"

        def __init__(self, uri, root, source):
            store.prepare_folder(root)

        def __getattr__(self, name):
            return lambda *_, **__: 0

    def stop(*_, **__):
        raise InputError("all checks are passed")

    mirror.Mirror = Deaf
    options.check_address = lambda _: stop()
    for module in (rank_cv, tune):
        module.check_address, module.run_missing = stop, lambda *_: stop()
    benchmark.ray_session = lambda *_, **__: stop()


def changed(words, rng, paths):
    """A command with one or two of its words replaced by something hostile, an option dropped, or one too many."""
    words = list(words)
    for _ in range(1 + (rng.random() < 0.2)):
        values = [place for place in range(1, len(words)) if not words[place].startswith("--")]
        kind = rng.random()
        if kind < 0.1:
            words.insert(
                int(rng.integers(len(words))), str(rng.choice(["--nope", "--store", "x", "--seed=", "-h", "--version"]))
            )
        elif kind < 0.2:
            place = int(rng.integers(len(words)))
            words = words[:place] + words[place + 1 :]
        elif values:
            place = int(rng.choice(values))
            known = {"--env": hostile.ENVS}.get(
                words[place - 1], paths if words[place - 1] in PATHS else hostile.VALUES
            )
            pool = known if rng.random() < 0.7 else [*hostile.VALUES, *paths]
            words[place] = pool[int(rng.integers(len(pool)))]
    return words


PATHS = {"--out", "--store", "--plot", "--save-model", "--pictures", "--model", "--data", "--space"}


def fuzz_options(given, folder, tries, seed):
    """Attempts at every command in turn; returns them with what was wrong."""
    rng, bad, counts = np.random.default_rng(seed), [], Counter()
    for number in range(tries):
        main, base = BASES[number % len(BASES)]
        here = sandbox(folder / f"try-{number}")
        words = changed([word.format(given) for word in base], rng, in_the_way(here))
        if main is persim and not words:
            continue
        made = attempt(main, words, here, before=lambda: (sys.path.insert(0, str(given)), stop_before_ray()))
        counts[made.status] += 1
        faults = made.faults() + ([] if precious(here) else ["something was changed that is not ours"])
        if "geheim" in made.out + made.err:
            faults.append("a password was printed")
        if faults:
            bad.append((faults, made))
        shutil.rmtree(here)
    return bad, counts


def fuzz_files(given, folder, tries, seed):
    """Crafted files against the commands that read them."""
    rng, bad, counts = np.random.default_rng(seed), [], Counter()
    for number in range(tries):
        kind, commands = RECORDS[number % len(RECORDS)]
        main, base = commands[(number // len(RECORDS)) % len(commands)]
        here, root = sandbox(folder / f"file-{number}"), folder / f"store-{number}"
        shutil.copytree(given / "store", root)
        path = sorted((root / kind).iterdir())[int(rng.integers(len(list((root / kind).iterdir()))))]
        if kind == "models":
            hostile.crafted_arrays(given / "model", MODEL, path, rng)
        elif rng.random() < 0.2:
            texts = hostile.raw_records(path, rng)
            path.write_bytes(texts[int(rng.integers(len(texts)))].encode())
        else:
            hostile.crafted_record(path, path, rng)
        target = path if kind == "models" else root
        made = attempt(main, [word.format(target) for word in base], here)
        counts[made.status] += 1
        faults = [fault for fault in made.faults() if "refused, and left" not in fault or kind != "models"]
        if faults:
            bad.append((faults, made))
        shutil.rmtree(here)
        shutil.rmtree(root)
    return bad, counts


def told(bad):
    return "\n".join(f"{faults}: {made.words}\n    {made.err.strip()[-600:]}" for faults, made in bad[:8])


@pytest.mark.timeout(900)  # a minute on an idle machine
def test_hostile_options_of_every_command(given, tmp_path):
    bad, counts = fuzz_options(given, tmp_path, 112, seed=21)
    assert not bad, told(bad)
    assert counts[2] > 55
    assert counts[70] == 0


@pytest.mark.timeout(900)
def test_crafted_files_are_refused(given, tmp_path):
    bad, counts = fuzz_files(given, tmp_path, 48, seed=22)
    assert not bad, told(bad)
    assert counts[2] > 20
    assert counts[70] == 0


def test_records_and_headers_of_another_form(given, tmp_path, rng):
    """In this process, as they are many: what is read is whole and of the right types, or refused."""
    cell, request = (next((given / "store" / kind).iterdir()) for kind in ("cells", "requests"))
    refused = 0
    for _ in range(150):
        for path, read in ((cell, read_finished), (request, read_request)):
            target = tmp_path / path.name
            hostile.crafted_record(path, target, rng)
            try:
                read(target)
            except InputError:
                refused += 1
        hostile.crafted_arrays(given / "model", MODEL, tmp_path / "m", rng)
        try:
            LowRankDynamics.load(tmp_path / "m")
        except InputError:
            refused += 1
    assert refused > 200
    for text in hostile.raw_records(cell, rng):
        (tmp_path / "raw.json").write_bytes(text.encode())
        with pytest.raises(InputError):
            store.read_record(tmp_path / "raw.json", "cell")


def test_datasets_of_wrong_types_are_refused_or_converted(cartpole_data, rng, tmp_path):
    refused = 0
    for _ in range(200):
        try:
            data = hostile.wrong_columns(cartpole_data, rng)
        except InputError:
            refused += 1
            continue
        assert data.observation.dtype == data.next_observation.dtype == data.reward.dtype == np.float32
        assert data.agent.dtype == data.step.dtype == data.action.dtype == np.int64
        assert data.terminated.dtype == data.truncated.dtype == np.bool_
        data.save(tmp_path / "data")
        assert Trajectories.load(tmp_path / "data").content_hash == data.content_hash
    assert refused > 50


@pytest.mark.parametrize("name", hostile.ENVS)
def test_a_hostile_name_of_an_environment_is_refused(given, name, monkeypatch):
    monkeypatch.syspath_prepend(str(given))
    with pytest.raises(InputError):
        get(name)


def test_an_environment_with_a_wrong_part_is_refused():
    parts, functions = hostile.wrong_specs()
    for field, value in parts:
        with pytest.raises(InputError, match=r"EnvSpec|covariate"):
            dataclasses.replace(get("cartpole"), **{field: value})
    for field, value in functions:
        with pytest.raises(InputError, match=field):
            check_functions(dataclasses.replace(get("cartpole"), **{field: value}))
    for field, value in (("low", np.nan), ("low", 9.0), ("high", np.inf), ("default", "x"), ("name", "a/b")):
        with pytest.raises(InputError):
            dataclasses.replace(get("cartpole").covariates[1], **{field: value})
    for name in ("mountaincar", "cartpole", "halfcheetah"):
        check_functions(get(name))


@pytest.mark.parametrize("text", hostile.SPACES, ids=range(len(hostile.SPACES)))
def test_a_hostile_space_is_refused_or_read(text, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        Space.read(path)


def test_a_store_full_of_things_in_the_way(given, tmp_path):
    """The folders of a store, and MLflow's database, as files, and as folders where files should be."""
    for number, (name, make) in enumerate(
        [("cells", "file"), ("requests", "file"), ("models", "file"), ("datasets", "file"), ("checkpoints", "file")]
    ):
        here = sandbox(tmp_path / f"way-{number}")
        (here / "runs").mkdir()
        (here / "runs" / name).write_text(make)
        made = attempt(persim, ["predict", *TRAIN], here)
        assert made.status == 2, made
        assert "Traceback" not in made.err


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_hostile_attempts(given, tmp_path):
    tries = int(os.environ.get("FUZZ_TRIES", "1000"))
    bad, counts = fuzz_options(given, tmp_path, tries * 7 // 10, seed=int(os.environ.get("FUZZ_SEED", "1")))
    more, others = fuzz_files(given, tmp_path, tries - tries * 7 // 10, seed=int(os.environ.get("FUZZ_SEED", "1")))
    print(f"options: {dict(counts)}; files: {dict(others)}; faults: {len(bad) + len(more)}")
    assert not bad + more, told(bad + more)
