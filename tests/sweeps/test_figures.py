"""Rows and pictures of Figures 1, 2, 4 and 5, from models that a tiny benchmark left in its store."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from persim import console
from persim.data.collect import population
from persim.envs import get
from persim.errors import InputError
from persim.evaluation.prediction import HORIZON
from persim.methods import Options, measure
from persim.storage.cells import CellStore
from sweeps import figures
from sweeps.grid.suites import SUITES, Grid
from sweeps.reporting import paper_figures
from sweeps.reporting.compare import number
from sweeps.reporting.frames import AGENTS, stored_models
from sweeps.reporting.paper_figures import curves_figure, frames_figure, latent_figure
from sweeps.reporting.results import Results

N, SEED = 6, 3


def jobs(data, methods, preset="smoke", trials=1):
    return Grid(SUITES["prediction"], data, methods, (N,), trials, Options(preset), SEED).jobs()


def compute(root, *arguments, **more):
    """What the benchmark does, without Ray."""
    for job in jobs(*arguments, **more):
        measure.compute(job, CellStore(root))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """MountainCar with all three methods, CartPole with PerSim alone."""
    root = tmp_path_factory.mktemp("store")
    compute(root, (("mountaincar", "random"),), ("persim", "cadm", "cadm-pets"))
    compute(root, (("cartpole", "random"),), ("persim",), trials=2)
    return root


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """Everything the command writes."""
    folder = tmp_path_factory.mktemp("out")
    arguments = ["--store", str(root), "--agents", str(N), "--seed", str(SEED), "--out", str(folder)]
    assert console.run(figures.main, [*arguments, "--pictures", str(folder / "pictures")]) == 0
    return folder


def read(folder, name):
    return pd.read_parquet(folder / f"{name}.parquet")


def test_methods_without_factors_have_no_such_rows(root):
    for model in stored_models([root], ("cadm", "cadm-pets"), N, SEED):
        done = CellStore(root).finished(model.job.cell)
        assert {entry["metric"] for entry in done.rows} == {"prediction_rmse", "prediction_r2", "prediction_steps"}


def test_every_agent_of_every_model_is_on_the_map_with_its_covariates(made, root):
    frame = read(made, "factors")
    assert set(frame["env"]) == {"mountaincar", "cartpole"}
    assert len(frame) == N * (1 + 2)
    covariates = population(get("cartpole"), N, SEED)
    own = frame[frame["env"] == "cartpole"]
    for column, name in enumerate(("force", "pole_length")):
        rows = own[own["covariate"] == name]
        assert rows["agent"].tolist() == list(range(1, N + 1))
        np.testing.assert_array_equal(rows["value"], covariates[:, column])
    assert np.isfinite(frame[["x", "y"]]).all(axis=None)
    assert set(own["unit"]) == {"N", "m"}


def test_its_r2_is_that_of_the_finished_cell(made, root):
    frame = read(made, "factors")
    for model in stored_models([root], ("persim",), N, SEED):
        done = CellStore(root).finished(model.job.cell)
        for name in model.job.spec.covariate_names:
            of_covariate = frame[(frame["env"] == model.job.cell.env) & (frame["covariate"] == name)]
            assert set(of_covariate["r2"]) == {done.value(f"factor_r2_{name}")}


def test_rollouts_start_at_the_truth_and_are_those_of_the_models(made, root):
    frame = read(made, "rollouts")
    assert set(frame[frame["env"] == "mountaincar"]["method"]) == {"persim", "cadm", "cadm-pets"}
    assert set(frame[frame["env"] == "cartpole"]["method"]) == {"persim"}
    for env, agents in AGENTS.items():
        assert list(dict.fromkeys(frame[frame["env"] == env]["agent"])) == list(agents)
    assert set(frame["step"]) == set(range(HORIZON + 1))
    start = frame[frame["step"] == 0]
    np.testing.assert_array_equal(start["predicted"], start["true"])
    for _, rows in frame.groupby(["env", "agent", "name"]):
        truths = rows.pivot_table(index="step", columns="method", values="true").to_numpy()
        assert (truths == truths[:, :1]).all()
    first = frame[frame["step"] == 1].pivot_table(
        index=["env", "agent", "dimension"], columns="method", values="predicted"
    )
    assert first.loc["mountaincar"].nunique(axis=1).eq(3).all()


def test_the_same_store_gives_the_same_bytes_and_what_it_lacks_is_said(made, root, tmp_path, capsys):
    arguments = ["--store", str(root), "--agents", str(N), "--seed", str(SEED), "--out", str(tmp_path)]
    assert console.run(figures.main, arguments) == 0
    assert capsys.readouterr().err == "CartPole, random data: no model of Vanilla CaDM, PE-TS CaDM; left out\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["factors.parquet", "rollouts.parquet"]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes(), path.name


def test_another_trial_is_another_model(root):
    first, second = (stored_models([root], ("persim",), N, seed) for seed in (SEED, SEED + 1))
    assert [model.job.cell.env for model in first] == ["mountaincar", "cartpole"]
    assert [model.job.cell.env for model in second] == ["cartpole"]
    assert second[0].path not in [model.path for model in first]


def test_of_several_budgets_the_fullest_counts_and_of_several_stores_the_first(tmp_path):
    data = (("cartpole", "random"),)
    files = {preset: jobs(data, ("persim",), preset)[0].model_file for preset in ("paper", "laptop", "quick", "smoke")}
    assert files["paper"] == files["laptop"]  # one model, found under the name of the fuller budget
    one, other = tmp_path / "one", tmp_path / "other"

    def left(root, preset):
        path = root / files[preset]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return path

    left(one, "smoke")
    for preset, shown in (("quick", "quick"), ("laptop", "paper")):
        path = left(other, preset)
        (found,) = stored_models([one, other], ("persim",), N, SEED)
        assert (found.path, found.budget) == (path, shown)
        left(one, preset)
        assert stored_models([one, other], ("persim",), N, SEED)[0].path == one / files[preset]
    for path in one.glob("models/*"):
        path.unlink()
    assert stored_models([one], ("persim",), N, SEED) == []


def test_a_model_is_found_though_no_cell_is_finished(root, tmp_path):
    (model,) = stored_models([root], ("persim",), N, SEED + 1)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / model.path.name).write_bytes(model.path.read_bytes())
    (found,) = stored_models([tmp_path], ("persim",), N, SEED + 1)
    np.testing.assert_array_equal(found.fitted().agent_factors(), model.fitted().agent_factors())


def panels(figure):
    """Axes that are not colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_the_map_has_a_panel_per_environment_and_covariate(made):
    figure = latent_figure(read(made, "factors"))
    assert [axes.get_title().split(",")[0] for axes in panels(figure)] == ["MountainCar", "CartPole", "CartPole"]
    bars = [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert bars == ["gravity (position per step squared)", "force (N)", "pole length (m)"]
    dots = panels(figure)[1].collections[0]
    np.testing.assert_array_equal(dots.get_array(), population(get("cartpole"), N, SEED)[:, 0])


def test_more_than_three_maps_of_one_regime_go_on_in_a_second_line(made):
    frame = read(made, "factors")
    frame = frame[frame["regime"] == frame["regime"].iloc[0]]
    another = frame[frame["env"] == "cartpole"].assign(env="halfcheetah")
    drawn = panels(latent_figure(pd.concat([frame, another])))
    assert [axes.get_subplotspec().rowspan.start for axes in drawn] == [0, 0, 0, 1, 1, 1]
    assert [bool(axes.axison) for axes in drawn] == [True] * 5 + [False]


def test_curves_have_a_panel_per_agent_and_state_dimension(made):
    frame = read(made, "rollouts")
    figure = curves_figure(frame[frame["env"] == "mountaincar"])
    assert len(figure.axes) == 2 * 2
    line = figure.axes[1].lines  # velocity of the first agent: the truth, then the methods
    assert [curve.get_label() for curve in line] == [
        "true", "PerSim (smoke budget)", "Vanilla CaDM (smoke budget)", "PE-TS CaDM (smoke budget)",
    ]  # fmt: skip
    own = frame[(frame["env"] == "mountaincar") & (frame["agent"] == 1) & (frame["dimension"] == 1)]
    np.testing.assert_array_equal(line[0].get_ydata(), own[own["method"] == "persim"]["true"])
    np.testing.assert_array_equal(line[2].get_ydata(), own[own["method"] == "cadm"]["predicted"])


def test_frames_show_a_line_of_pictures_per_method(made):
    frame = read(made, "rollouts")
    own = frame[(frame["env"] == "mountaincar") & (frame["agent"] == 4)]
    figure = frames_figure(own, (10, 50))
    assert len(figure.axes) == 3 * 2
    assert all(len(axes.images) == 1 for axes in figure.axes)
    lost = own.assign(predicted=own["predicted"].where(own["step"] < 50, np.inf))
    texts = [[text.get_text() for text in axes.texts] for axes in frames_figure(lost, (10, 50)).axes]
    assert texts == [[], ["prediction not finite"]] * 3


def test_pictures_are_pictures(made):
    found = list((made / "pictures").glob("*.png"))
    assert len(found) == 1 + 2 + 4  # the maps, the curves of each environment, the frames of each agent
    for path in found:
        assert np.asarray(Image.open(path).convert("RGB")).std() > 5, path


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--store", "absent"], "has no trained PerSim of N=500 and seed 0; run sweeps/benchmark.py"),
        (["--agents", "0"], "agents is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--out", "/proc/x"], "folder --out '/proc/x' cannot be written"),
        (["--pictures", "/proc/x"], "folder --pictures '/proc/x' cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(more, expected, root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = more if "absent" in more else ["--store", str(root), "--agents", str(N), "--seed", str(SEED), *more]
    assert console.run(figures.main, arguments) == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_report_shows_them(made):
    results = Results((), made)
    (section,) = paper_figures.factors(results)
    assert [figure.name for figure in section.figures] == ["factors"]
    assert {entry.style for line in section.tables[0].rows for entry in line[1:]} == {"missing"}  # no rows of cells
    first, second, third = paper_figures.rollouts(results)
    assert (first.level, second.title, third.title) == (2, "MountainCar", "CartPole")
    assert [figure.name for figure in second.figures] == [
        "rollouts-mountaincar", "frames-mountaincar-1", "frames-mountaincar-4",
    ]  # fmt: skip
    assert paper_figures.rollouts(results)[1].figures[1].svg == second.figures[1].svg


def test_a_report_without_them_has_the_table_alone(tmp_path):
    results = Results((), tmp_path)
    assert paper_figures.rollouts(results) == []
    assert paper_figures.factors(results)[0].figures == ()


def test_r2_stands_in_the_report(root, made):
    cell = stored_models([root], ("persim",), N, SEED)[0].job.cell
    done = CellStore(root).finished(cell)
    shown = replace(done, cell=replace(cell, agents=500), labels={"prediction": "quick"})
    table = paper_figures.factors(Results((shown,), made))[0].tables[0]
    (line,) = [line for line in table.rows if line[0].lines == ("MountainCar", "gravity")]
    assert line[2].lines[0] == number(done.value("factor_r2_gravity"), 4)
    assert [entry.style for entry in line[1:]] == ["missing", "plain", "missing", "missing"]


@pytest.mark.parametrize("name", ["factors", "rollouts"])
def test_damaged_rows_of_figures_are_one_line(made, name, tmp_path):
    (tmp_path / f"{name}.parquet").write_bytes((made / f"{name}.parquet").read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        getattr(paper_figures, name)(Results((), tmp_path))
    read(made, name).drop(columns="regime").to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="has no column regime; write it anew"):
        getattr(paper_figures, name)(Results((), tmp_path))
