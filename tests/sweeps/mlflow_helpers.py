"""What the tests of the tracker share: cells to send, and the runs that MLflow then has."""

from dataclasses import replace

from mlflow import MlflowClient

from sweeps.tracking.tracker import Extras, Group, Tracker
from tests.sweeps.test_rank_choice import trial

GROUP = Group("sweep-1", "cartpole", {"env": "cartpole", "ranks": "3,5"})


def tracker(uri, store):
    return Tracker(uri, "rank_cv", store, "sweeps/rank_cv.py")


def send(to, done, extras=None, status="FINISHED", group=GROUP):
    to.send(done, group, f"trial {done.cell.trial + 1}", extras or Extras(), status)


def runs(uri):
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("rank_cv").experiment_id])
    parents = [run for run in found if run.data.tags["persim.kind"] == "sweep"]
    return client, parents, [run for run in found if run.data.tags["persim.kind"] == "trial"]


def finished_trial(rank=5, repeat=0, error=1.5, points=1300, **changes):
    curves = {"train_mse": [[epoch, 1 / epoch] for epoch in range(1, points + 1)]}
    return replace(trial(rank, repeat, error), curves=curves, started=1000, ended=5000, **changes)
