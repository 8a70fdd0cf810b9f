"""What MLflow shows of a tuning study: a run per trial, and the best settings on their parent."""

from __future__ import annotations

from persim.storage import store
from persim.storage.cells import FinishedCell
from sweeps.tracking.tracker import Extras, Group, Tracker
from sweeps.tuning.study import Ranked
from sweeps.tuning.trial import StudySettings


class StudyRuns:
    """The runs of one study, as one group of the experiment.

    Args:
        tracker: the writer.
        study: the study.
    """

    def __init__(self, tracker: Tracker, study: StudySettings) -> None:
        self._tracker = tracker
        self.uri = tracker.uri
        self.how_to_look = tracker.how_to_look
        params = {**study.as_json(), "space": store.canonical_json(study.space.as_json())}
        title = f"{study.env} {study.regime} N={study.agents}, {study.objective}"
        self._group = Group(study.id, title, params)

    def send(self, done: FinishedCell) -> None:
        """Queues a trial, finished or stopped early."""
        settings = done.cell.settings
        stopped = f", stopped at {settings['stopped_at']}" if "stopped_at" in settings else ""
        name = f"rank {settings['rank']}, rate {settings['learning_rate']:.1e}{stopped}"
        self._tracker.send(done, self._group, name, Extras())

    def fail(self) -> None:
        """Ends the study as failed."""
        self._tracker.close_group(self._group, {}, {}, [], status="FAILED")
        self._tracker.close()

    def finish(self, best: Ranked) -> bool:
        """Ends the study with its result; returns whether MLflow has everything."""
        tags = {"persim.best_settings": store.canonical_json(best.entry.values)}
        self._tracker.close_group(self._group, {"best_value": [(0, best.value)]}, tags, [])
        return self._tracker.close()
