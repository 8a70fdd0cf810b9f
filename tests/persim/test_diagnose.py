"""``persim diagnose``: its table and verdict, its picture, and one line for what a user can mend."""

import numpy as np
import pytest
from PIL import Image

from persim import console
from persim.cli import main
from persim.cli.diagnose import verdict
from persim.data import collect_regime
from persim.envs import get
from persim.evaluation.diagnosis import Diagnosis, diagnose
from persim.learning.model import KIND, LowRankDynamics
from persim.storage import store

ABOUT = {"env": "cartpole", "regime": "random", "agents": 8, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its data, and files that are neither."""
    folder = tmp_path_factory.mktemp("diagnose")
    predict = ["predict", "--env", "cartpole", "--agents", "8", "--epochs", "2", "--members", "2", "--candidates", "2"]
    assert console.run(main, [*predict, "--save-model", str(folder / "model")]) == 0
    collect_regime(get("cartpole"), "random", 8, 0).save(folder / "data")
    collect_regime(get("cartpole"), "random", 9, 0).save(folder / "more")
    collect_regime(get("mountaincar"), "random", 8, 0).save(folder / "car")
    model, _ = LowRankDynamics.load(folder / "model")
    model.save(folder / "nameless")
    store.write_arrays(folder / "cadm", {"w": np.zeros(3)}, KIND, {"about": ABOUT})
    return folder


def run(folder, capsys, *arguments):
    words = [word.format(folder) for word in arguments]
    try:
        code = console.run(main, ["diagnose", *words])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_table_has_the_energies(folder, capsys):
    code, output, _ = run(folder, capsys, "--model", "{}/model")
    assert code == 0
    model, _ = LowRankDynamics.load(folder / "model")
    data = collect_regime(get("cartpole"), "random", 8, 0)
    found = diagnose(model, data)
    lines = output.splitlines()
    table = [line.split() for line in lines if line.strip()[:1].isdigit() and "%" in line]
    assert [int(words[0]) for words in table] == [1, 2, 3, 4, 5]
    for column, energies in ((1, found.terms.mean(0)), (3, found.directions.mean(0)), (5, found.lost)):
        np.testing.assert_allclose([float(words[column]) for words in table], 100 * energies, rtol=0.01, atol=1e-9)
    assert "CartPole, random data, 8 agents: rank 5, mean over 2 members" in output
    assert f"one-step error of the model: {100 * found.error.mean():.3g} %" in output
    assert [line.split(" with R2 ")[0] for line in lines if "R2" in line] == [
        "the agents' factors predict force (N)",
        "the agents' factors predict pole length (m)",
    ]


def test_data_of_a_file_are_those_recorded_once_more(folder, capsys):
    _, recorded, _ = run(folder, capsys, "--model", "{}/model")
    code, read, _ = run(folder, capsys, "--model", "{}/nameless", "--data", "{}/data")
    assert code == 0
    assert read == recorded


def test_the_picture(folder, capsys, tmp_path):
    path = tmp_path / "new" / "terms.png"
    code, output, _ = run(folder, capsys, "--model", "{}/model", "--plot", str(path))
    assert code == 0
    assert f"picture saved to {path}" in output
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] > 1500
    assert ((image[..., 2] > 150) & (image[..., 0] < 80)).sum() > 500  # the bars and the curve, blue


@pytest.mark.parametrize(
    ("lost", "error", "expected"),
    [
        ([0.5, 0.1, 1e-6, 0], 1e-4, "The rank is large enough: 3 of 4 directions carry all that matters"),
        ([0.5, 0.1, 1e-3, 0], 1e-4, "The rank is not too large: its last direction carries 0.1 %"),
        ([0], 0.2, "The rank is not too large: its last direction carries 100 %, more than a tenth of the error, 20 %"),
    ],
)
def test_the_verdict(lost, error, expected):
    directions = -np.diff([1.0, *lost])[None]
    found = Diagnosis(directions, directions, np.array([error]))
    np.testing.assert_allclose(found.lost, lost, atol=1e-12)
    assert verdict(found).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "required: --model"),
        ("--model {}/absent", "cannot be read"),
        ("--model {}/data", "holds 'trajectories', but 'model' is wanted"),
        ("--model {}/cadm", "holds another method's weights; give a model that PerSim saved"),
        ("--model {}/nameless", "does not say what it was trained on; give its data as --data"),
        ("--model {}/model --data {}/model", "but 'trajectories' is wanted"),
        ("--model {}/model --data {}/car", "are of 'mountaincar', the model of 'cartpole'"),
        ("--model {}/model --data {}/more", "the data have 9 agents"),
        ("--model {}/nameless --data {}/car", "2 state dimensions and 3 discrete actions"),
        ("--model {}/model --plot x.pdf", "not a PNG file"),
        ("--model {}/model --data {}/data --plot /proc/x/y.png", "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_2(text, expected, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = run(folder, capsys, *text.split())
    assert code == 2
    assert expected in errors
    assert errors.count("\n") == 1
    assert output == ""
    assert list(tmp_path.iterdir()) == []
