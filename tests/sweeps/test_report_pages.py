"""Blocks of results in pages: known text between the marks, and nothing else is touched."""

from pathlib import Path

import pytest

from persim import console
from persim.errors import InputError
from sweeps import report
from sweeps.reporting.pages import END, START, filled
from sweeps.reporting.results import Results
from tests.sweeps.report_helpers import cells, fill, rank_trials

PAGE = f"# A page\n\nBefore.\n\n{START}NAME -->\nold\n{END}\n\nAfter.\n\n    {START}headline -->\n    {END}\n"
FIRST = "PerSim, our planner (2 trials, paper) | −57.00 ± 0.00 ▲"


def results(*groups, out=Path("results")):
    return Results(tuple(finished for group in groups for finished in group), out)


def block(tmp_path, name, *groups):
    """The block of that name in a page, when these cells are there."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("NAME", name))
    text = filled(page, results(*groups, out=tmp_path / "results"))
    before, after = PAGE.replace("NAME", name).split("old\n")
    assert text.startswith(before)
    assert text.endswith(after)
    page.write_text(text)
    assert filled(page, results(*groups, out=tmp_path / "results")) == text
    return text[len(before) : -len(after)].strip()


def test_a_table_of_the_report_without_what_is_not_measured(tmp_path):
    shown = block(tmp_path, "9/mountaincar/random", cells("reward", "mountaincar", "random", "persim", [-57.0]))
    assert shown.startswith(
        "**Table 9: MountainCar, random data, N = 500: average reward of an episode**\n\n| method |"
    )
    assert "| PerSim, our planner<br>1 trial, paper | −57.00<br>paper −57.70 ± 5.63<br>+0.70, +0.1 s.d. ▲ |" in shown
    assert "not measured" not in shown
    assert shown.endswith("episodes of an agent: 20.")
    assert block(tmp_path, "9/mountaincar/random") == "Nothing is measured yet."


def test_rewards_of_persim_and_the_true_environment(tmp_path):
    shown = block(
        tmp_path,
        "rewards",
        cells("reward", "mountaincar", "random", "persim", [-57.0, -58.0]),
        cells("reward", "mountaincar", "pure", "persim", [-60.0]),
        cells("reward", "mountaincar", "pure", "bcq-p", [-61.0]),
        cells("reward", "mountaincar", "random", "true-env", [-53.0]),
    )
    lines = [line.split(" | ")[:3] for line in shown.splitlines() if line.startswith("| ")][2:]
    assert [(data.strip("| "), name, first.partition("<br>")[0]) for data, name, first in lines] == [
        ("pure", "PerSim, our planner (1 trial, paper)", "−60.00 ▼"),
        ("pure", "the paper's", "−56.80 ± 1.83"),
        ("random", "PerSim, our planner (2 trials, paper)", "−57.50 ± 0.71 ▲"),
        ("random", "the paper's", "−57.70 ± 5.63"),
        ("any", "True env+MPC, our planner (1 trial, paper)", "−53.00 ▲"),
        ("any", "the paper's", "−53.95 ± 4.1"),
    ]


def test_predictions_have_their_ratio_and_their_scored_steps(tmp_path):
    (finished,) = cells("prediction", "mountaincar", "random", "persim", [0.006])
    assert "| random | PerSim (1 trial, paper) | 0.0060 ▼<br>×1.50 |" in block(tmp_path, "prediction", [finished])
    finished.rows.extend({"metric": "prediction_steps", "agent": agent, "value": 48.0} for agent in range(1, 6))
    assert "0.0060 ▼<br>×1.50, 48.0 steps |" in block(tmp_path, "prediction", [finished])


def test_ranks_have_their_pictures(tmp_path):
    shown = block(tmp_path, "ranks", rank_trials({3: [9.0, 9.1], 5: [1.1, 1.3]}))
    assert "| rank 5 (chosen) |" in shown
    assert "](results/figures/rank-cartpole-random-500-" in shown
    assert block(tmp_path, "ranks") == "Nothing is measured yet."


def test_marks_that_are_wrong_are_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("NAME", "headlne"))
    with pytest.raises(InputError, match=r"page.md': block of results 'headlne' is unknown \(did you mean 'headline'"):
        filled(page, results())
    for text in (f"{START}headline -->\n", f"{START}headline -->\n\n{START}ranks -->\n{END}\n"):
        page.write_text(text)
        with pytest.raises(InputError, match="has no line <!-- end --> before the next"):
            filled(page, results())


def test_the_report_writes_the_pages_beside_its_own_results_only(tmp_path, monkeypatch, capsys):
    page, guide, other = tmp_path / "README.md", tmp_path / "docs" / "a.md", tmp_path / "docs" / "b.md"
    other.parent.mkdir()
    for path in (page, guide):
        path.write_text(PAGE.replace("NAME", "rewards"))
    other.write_text("no block")
    before = {path: path.stat().st_mtime_ns for path in (page, guide, other)}
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "sections", lambda *_: [])  # drawing takes seconds
    runs = str(fill(tmp_path / "runs", cells("reward", "mountaincar", "random", "persim", [-57.0, -57.0])))
    assert console.run(report.main, ["--store", runs, "--out", str(tmp_path / "elsewhere")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    capsys.readouterr()
    assert console.run(report.main, ["--store", runs, "--out", str(tmp_path / "results")]) == 0
    assert "blocks of results written anew: README.md, a.md\n" in capsys.readouterr().out
    assert FIRST in page.read_text()
    assert FIRST in guide.read_text()
    assert other.stat().st_mtime_ns == before[other]
    written = page.stat().st_mtime_ns
    assert console.run(report.main, ["--out", str(tmp_path / "results")]) == 0
    assert "written anew" not in capsys.readouterr().out
    assert page.stat().st_mtime_ns == written


def test_wrong_marks_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text(f"{START}rewards -->\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "sections", lambda *_: [])
    runs = str(fill(tmp_path / "runs", cells("reward", "mountaincar", "random", "persim", [-57.0])))
    assert console.run(report.main, ["--store", runs, "--out", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "results").exists()
