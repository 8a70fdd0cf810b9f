"""Theorem 1 and the ablations: their cells, and what the report says of them."""

from dataclasses import replace
from pathlib import Path

from persim.envs import get
from persim.methods.job import TENSOR
from persim.storage.cells import FinishedCell, row
from sweeps import benchmark
from sweeps.grid import command
from sweeps.grid.suites import SUITES
from sweeps.reporting import rows
from sweeps.reporting.ablations import ablations, table
from sweeps.reporting.cost import cost
from sweeps.reporting.results import Results
from sweeps.reporting.select import budget_of, changes
from sweeps.reporting.theorem import curves, theorem
from tests.sweeps.report_helpers import done, fill

VARIANTS = list(SUITES["ablations"].variants)


def jobs(*arguments):
    return command.grid_of(command.parser("").parse_args(arguments), Path("runs")).jobs()


def variants(trials=1, *more):
    """By name the jobs of each variant, on CartPole's random data."""
    own = ("--envs", "cartpole", "--regimes", "random", "--trials", str(trials), *more)
    found = jobs("--suite", "ablations", *own)
    assert len(found) == trials * len(VARIANTS)
    return {name: found[place :: len(VARIANTS)] for place, name in enumerate(VARIANTS)}


def measured(values, preset="paper"):
    """Finished cells with these RMSEs ``[trials]`` of each variant, the same for all agents."""
    trials = max(map(len, values.values()))
    return [
        done(job.cell, value, labels={"ablations": preset})
        for name, own in variants(trials, "--preset", preset).items()
        for job, value in zip(own, values.get(name, ()), strict=False)
    ]


def test_a_variant_changes_what_it_says_and_nothing_else():
    found = {name: job.cell for name, (job,) in variants().items()}
    usual = found.pop("as it is")
    (same,) = jobs("--suite", "prediction", "--envs", "cartpole", "--regimes", "random", "--methods", "persim",
                   "--trials", "1")  # fmt: skip
    assert usual.id == same.cell.id
    assert "residual" not in usual.settings["nets"]  # ids of before the option existed stay valid
    told = {name: changes(done(cell, 0.1)) for name, cell in found.items()}
    assert told == {
        "next states as targets": ("residual False (default)",),
        "five members, no spare ones": ("candidates 5 (7)",),
        "one member": ("candidates 1 (7)", "members 1 (5)"),
        "no averaging of weights": ("average last 0 (50)",),
        "no alternating least squares": ("polish rounds 0 (3)",),
        "the paper's training: none of the last three": (
            "candidates 5 (7)",
            "average last 0 (50)",
            "polish rounds 0 (3)",
        ),
    }
    assert all(cell.measure == usual.measure for cell in found.values())


def test_no_variant_passes_for_the_papers_budget():
    finished = measured({name: [0.1] for name in VARIANTS})
    assert [budget_of(one) for one in finished if not changes(one)] == ["paper"]
    assert all(changes(one) for one in finished[1:])


def test_a_rank_that_was_asked_for_is_kept_beside_a_variant():
    (usual, states, *_) = [own[0].cell for own in variants(1, "--rank", "7").values()]
    assert (usual.settings["rank"], states.settings["rank"]) == (7, 7)
    assert states.settings["nets"]["residual"] is False


def test_the_table_has_geometric_means_and_their_ratio():
    made = table(
        measured({"as it is": [0.1, 0.4], "one member": [0.3, 1.2], "no averaging of weights": [0.2]}), "paper"
    )
    shown = {entries[0].lines[0]: entries[1].lines[0] for entries in made.rows}
    assert made.columns == ("variant", "CartPole\nrandom, N = 500")
    assert shown == {name: "–" for name in VARIANTS} | {
        "as it is": "0.2 (2 trials)",
        "one member": "0.6, × 3.00 (2 trials)",
        "no averaging of weights": "0.2, × 2.00 (1 trial)",  # of the trial that both have
    }


def test_a_variant_that_diverged_says_so():
    made = table(measured({"as it is": [0.1], "one member": [float("inf")]}), "paper")
    assert {entries[1].lines[0] for entries in made.rows} >= {"diverged, × diverged (1 trial)"}


def test_the_report_shows_the_fullest_budget_and_never_smoke():
    both = measured({"as it is": [0.1]}) + measured({"as it is": [0.5]}, "quick")
    (section,) = ablations(Results(tuple(both), Path()))
    assert "(paper budget)" in section.tables[0].caption
    (section,) = ablations(Results(tuple(measured({"as it is": [0.1]}, "smoke")), Path()))
    assert not section.tables


def tensor(env, errors, seed=0, ended=1, preset="paper", inside=None):
    (job,) = jobs("--suite", "theorem1", "--envs", env, "--trials", "1", "--seed", str(seed), "--preset", preset)
    metrics = [
        row(f"tensor_{metric}_rank_{rank}", scale * error)
        for rank, error in errors.items()
        for metric, scale in (("error", 1), ("max_error", 10), ("cover_error", 100))
    ]
    metrics += [row(f"tensor_inside_error_rank_{rank}", error) for rank, error in (inside or {}).items()]
    metrics.append(row("tensor_clipped", 0.02 if inside else 0.0))
    return FinishedCell(job.cell, metrics, {}, "abc", {"measure": 3.0}, ended, ended, labels={"theorem1": preset})


def test_a_cell_of_theorem_1_says_everything():
    cells = [job.cell for job in jobs("--suite", "theorem1")]
    assert [(cell.env, cell.seed) for cell in cells[:3]] == [("mountaincar", 0), ("cartpole", 0), ("halfcheetah", 0)]
    for cell in cells:
        assert (cell.what, cell.regime, cell.agents, cell.settings) == (TENSOR, "random", 40, {})
        assert (cell.measure["actions"] is None) == get(cell.env).discrete
    assert len({cell.id for cell in cells}) == 9


def test_the_section_says_what_one_sees():
    found = [
        tensor("mountaincar", {1: 0.5, 2: 0.2, 3: 1e-15}),
        tensor("mountaincar", {1: 0.6, 2: 0.1, 3: 1e-14}, seed=1),
        tensor("halfcheetah", {1: 0.5, 10: 0.1, 15: 0.08, 30: 0.05}),
        tensor("cartpole", {1: 0.5}, preset="smoke"),
    ]
    (section,) = theorem(Results(tuple(found), Path()))
    told = section.text[1]
    assert "MountainCar is exact with 3 terms (the paper's rank: 3); one term fewer misses 0.2;" in told
    assert "HalfCheetah is exact with none of these ranks: 15 terms (the paper's rank: 15) miss 0.08" in told
    assert "30 terms 0.05; the largest error of one entry is 0.8 and 0.5 root mean squares" in told
    assert "CartPole" not in told
    (made,), (figure,) = section.tables, section.figures
    assert made.columns == ("rank r", "MountainCar\n2 trials", "HalfCheetah\n1 trial")
    shown = {entries[0].lines[0]: [entry.lines[0] for entry in entries[1:]] for entries in made.rows}
    assert shown["1"] == ["0.6 (6; 60)", "0.5 (5; 50)"]  # the largest of the trials
    assert shown["3"] == ["exact (exact; exact)", "–"]
    assert figure.svg.startswith(b"<?xml")
    assert theorem(Results(tuple(found[::-1]), Path())) == [section]


def test_states_that_a_bound_clips_are_told_apart():
    found = tensor("mountaincar", {1: 0.5, 2: 0.2, 3: 0.01, 4: 0.001}, inside={1: 0.4, 2: 0.1, 3: 1e-15})
    (section,) = theorem(Results((found,), Path()))
    assert section.text[1] == (
        "MountainCar is exact with 3 terms (the paper's rank: 3) in states from which no step ends at a bound of the "
        "state space; one term fewer misses 0.1; with the other 2.0 % of states 3 terms miss 0.01; the proof's sum of "
        "3 terms misses 1."
    )
    shown = [entries[1].lines[0] for entries in section.tables[0].rows]
    assert shown == ["0.5 [0.4] (5; 50)", "0.2 [0.1] (2; 20)", "0.01 [exact] (0.1; 1)", "0.001 (0.01; 0.1)"]


def test_of_two_sizes_the_later_is_shown():
    old = tensor("mountaincar", {1: 0.9})
    small = replace(old.cell, measure={**old.cell.measure, "states": 10})
    trials, own = curves(
        [old, replace(old, cell=small, rows=[row("tensor_error_rank_1", 0.3), row("tensor_clipped", 0)], ended=9)]
    )["mountaincar"]
    assert (trials, own["error"]) == (1, {1: 0.3})


def test_rows_are_published_and_counted(tmp_path):
    finished = tensor("mountaincar", {1: 0.5, 2: 0.2, 3: 1e-15})
    path = rows.rows_path(tmp_path, TENSOR)
    path.write_bytes(rows.encode([finished]))
    assert rows.read(path) == [replace(finished, rows=sorted(finished.rows, key=lambda one: one["metric"]))]
    (section,) = cost(Results((finished,), Path()))
    ((name, *shown),) = section.tables[0].rows
    assert [name.lines[0], *(entry.lines[0] for entry in shown[:3])] == [
        "True env+MPC, our planner",
        "40",
        "Theorem 1",
        "1",
    ]


def test_the_command_ends_with_the_table_of_theorem_1(tmp_path, capsys):
    small = ["--preset", "smoke", "--agents", "6", "--trials", "1", "--envs", "mountaincar"]
    assert benchmark.main(["--suite", "theorem1", *small, "--in-process", "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "rank r  MountainCar, 1 trial" in printed
    assert "exact (exact; " in printed
    assert "plot:" not in printed


def test_the_command_ends_with_the_table_of_ablations(tmp_path, capsys):
    fill(tmp_path, measured({name: [0.1 + place] for place, name in enumerate(VARIANTS)}))
    own = ["--envs", "cartpole", "--regimes", "random", "--trials", "1"]
    assert benchmark.main(["--suite", "ablations", *own, "--in-process", "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "50-step prediction RMSE of variants of PerSim (paper budget)" in printed
    assert "1.1, × 11.00 (1 trial)" in printed
    assert "plot:" not in printed
