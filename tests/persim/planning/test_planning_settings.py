"""How a method plans: the paper's planner by name, our shaping as a setting, and both in words."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from baselines.cadm.method import acting_settings
from persim.envs import get
from persim.envs.spec import PlanningHints
from persim.errors import InputError
from persim.methods import Options, PlanningSettings
from persim.methods.persim import PerSimSettings
from persim.methods.planning import planning_text
from persim.methods.true_env import TrueEnv
from persim.planning import registry

CAR, POLE, CHEETAH = (get(name) for name in ("mountaincar", "cartpole", "halfcheetah"))


def test_the_papers_planner_is_that_of_appendix_d1_and_ignores_what_we_tuned(monkeypatch):
    monkeypatch.setitem(registry._TUNED, ("mountaincar", "random_shooting"), {"horizon": 7})
    monkeypatch.setitem(registry._TUNED, ("halfcheetah", "cem"), {"plans": 60})
    assert PlanningSettings.of(CAR, "random_shooting").settings.horizon == 7
    for spec in (CAR, POLE):
        paper = PlanningSettings.of(spec, "paper")
        assert (paper.planner, asdict(paper.settings)) == ("random_shooting", {"plans": 1000, "horizon": 50})
        assert not paper.safety
    paper = PlanningSettings.of(CHEETAH, "paper")
    assert (paper.planner, paper.settings.plans, paper.settings.horizon) == ("cem", 200, 30)
    assert PlanningSettings.chosen(POLE, Options("smoke", planner="paper")).settings.plans == 20
    tiny = PlanningSettings.chosen(CHEETAH, Options("smoke", planner="paper")).settings
    assert (tiny.plans, tiny.elites) == (20, 20)  # the paper's 50 elites do not fit


def test_shaping_is_on_for_ours_off_for_the_papers_and_nothing_where_there_is_none():
    assert [PlanningSettings.of(POLE, name).safety for name in (None, "cem", "persistent_shooting", "paper")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert PlanningSettings.of(POLE, safety=False).safety is False
    assert PlanningSettings.of(POLE, "paper", safety=True).safety is True
    assert PlanningSettings.of(CAR, safety=True).safety is None
    shaped = replace(CHEETAH, planning=PlanningHints(safety=lambda states: states[..., 0], best_safety=1.0))
    assert [PlanningSettings.of(shaped, name).safety for name in ("icem", "cem", "paper")] == [True, False, False]


def test_shaping_is_shown_where_it_could_be_added_and_added_where_it_is_on():
    on, off = (PlanningSettings.of(POLE, safety=safety) for safety in (True, False))
    assert (on.about()["safety"], off.about()["safety"]) == (True, False)
    assert "safety" not in PlanningSettings.of(CAR).about()
    upright, action = torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)
    assert off.objective(POLE).reward(upright, action, upright).item() == 1.0
    assert on.objective(POLE).reward(upright, action, upright).item() == pytest.approx(1.01)


def test_what_the_rows_choose_can_be_said_in_the_registry(monkeypatch):
    monkeypatch.setitem(registry._OURS, "cartpole", "random_shooting")
    monkeypatch.setitem(registry._TUNED, ("cartpole", "random_shooting"), {"horizon": 8, "safety": True})
    chosen = PlanningSettings.of(POLE)
    assert (chosen.planner, chosen.settings.horizon, chosen.safety) == ("random_shooting", 8, True)
    assert PlanningSettings.of(POLE, "paper") == PlanningSettings(
        "random_shooting", chosen.settings.__class__(), safety=False
    )


def test_options_of_the_planner_reach_it():
    asked = PlanningSettings.chosen(POLE, Options(planner="random_shooting", planning={"horizon": 8, "safety": True}))
    assert (asked.settings.horizon, asked.settings.plans, asked.safety) == (8, 1000, True)
    with pytest.raises(InputError, match="did you mean 'horizon'"):
        PlanningSettings.chosen(POLE, Options(planner="random_shooting", planning={"horizont": 8}))
    with pytest.raises(InputError, match="did you mean 'paper'"):
        PlanningSettings.of(POLE, "papper")


def test_how_a_method_plans_in_words():
    def words(spec, planning, **more):
        return planning_text({"planning": planning.about(), **more}, spec)

    paper = PlanningSettings.of(CAR, "paper")
    assert words(CAR, paper) == "random_shooting, 1000 plans, horizon 50, shaping: progress"
    assert words(CAR, paper, acting={"progress": False}) == "random_shooting, 1000 plans, horizon 50, shaping: none"
    ours = PlanningSettings.of(POLE, horizon=10)
    assert words(POLE, ours) == "random_shooting, 1000 plans, horizon 10, shaping: safety"
    assert words(POLE, replace(ours, safety=False)).endswith("shaping: none")
    before = replace(PlanningSettings.of(POLE, "persistent_shooting"), safety=None)  # rows of before it was a setting
    assert words(POLE, before).endswith("shaping: safety")
    assert words(POLE, replace(PlanningSettings.of(POLE, "paper"), safety=None)).endswith("shaping: none")
    assert (
        words(CHEETAH, PlanningSettings.of(CHEETAH, "paper")) == "cem, 200 plans, 6 rounds, horizon 30, shaping: none"
    )


def test_an_episode_costs_what_its_plans_look_at():
    def seconds(spec, planner, **options):
        return PlanningSettings.of(spec, planner, **options).episode_seconds(spec, 5)

    assert seconds(POLE, "paper") == pytest.approx(5 * seconds(POLE, "persistent_shooting", horizon=10))
    assert seconds(CAR, "persistent_shooting", horizon=50) == seconds(CAR, "persistent_shooting", horizon=150)
    assert seconds(CAR, "paper") > seconds(CAR, "persistent_shooting", horizon=150)
    ours = seconds(CHEETAH, "icem", plans=64, iterations=3, horizon=30)
    assert seconds(CHEETAH, "paper") == pytest.approx(ours * (200 * 6) / (64 * 3))
    assert np.isfinite(ours)


def test_rollout_and_penalty():
    ours, paper = PlanningSettings.of(CHEETAH), PlanningSettings.of(CHEETAH, "paper")
    assert (ours.planner, ours.rollout, ours.penalty, ours.settings.spread) == ("cem", "mean", 10.0, (0.5, 0.9))
    assert (paper.rollout, paper.penalty, paper.settings.spread) == ("members", 0.0, (0.3, 0.6))
    assert paper.plain == paper
    assert (ours.plain.rollout, ours.plain.penalty) == ("members", 0.0)
    assert ours.about()["rollout"] == "mean"
    assert "rollout" not in PlanningSettings.of(CAR).about()  # ids of before it was a setting stay valid
    assert planning_text({"planning": ours.about()}, CHEETAH).endswith(
        "shaping: none, from the members' mean state, penalty 10, prior auto"
    )
    for options in ({"rollout": "median"}, {"penalty": -0.5}):
        with pytest.raises(InputError, match=next(iter(options))):
            PlanningSettings.of(CHEETAH, **options)
    assert TrueEnv(ours).about()["planning"] == ours.plain.about()
    assert acting_settings(CHEETAH, Options(planner="cem")).planning.penalty == 0
    assert PerSimSettings.of(CHEETAH, ours, members=1).planning == ours.plain


def test_a_laptop_searches_fewer_rounds_with_continuous_actions():
    assert PlanningSettings.chosen(CHEETAH, Options("laptop")).settings.iterations == 2
    assert PlanningSettings.chosen(CHEETAH, Options("laptop", planner="paper")).settings.iterations == 5
    assert PlanningSettings.chosen(CHEETAH, Options()).settings.iterations == 5
    assert PlanningSettings.chosen(CAR, Options("laptop")) == PlanningSettings.chosen(CAR, Options())


def test_fewer_plans_have_no_more_elites():
    assert PlanningSettings.of(CHEETAH, plans=20).settings.elites == 20
    assert PlanningSettings.of(CHEETAH, plans=100).settings.elites == 50
    with pytest.raises(InputError, match="elites is 30, more than the 20 plans"):
        PlanningSettings.of(CHEETAH, plans=20, elites=30)
