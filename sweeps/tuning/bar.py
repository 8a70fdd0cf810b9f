"""One bar for a whole sweep: epochs done, latest losses, trials finished and failed, time left."""

from __future__ import annotations

import sys
from typing import Any

from ray.tune import Callback
from tqdm import tqdm

_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs, {elapsed}, {remaining} left{postfix}"


class SweepBar(Callback):  # type: ignore[misc]  # Ray is untyped
    """Counts the epochs of all trials, as they report them.

    Args:
        title: shown in front.
        trials: how many there are to run.
        epochs: per trial, at most.
    """

    def __init__(self, title: str, trials: int, epochs: int) -> None:
        self._epochs, self._trials = epochs, trials
        self._done: dict[str, int] = {}
        self._finished, self._failed, self._latest = 0, 0, ""
        self._bar = tqdm(
            total=trials * epochs,
            desc=title,
            unit="epoch",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            bar_format=_BAR_FORMAT,
        )

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: Tune saves its callbacks, but a new run makes them anew."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Advance the bar to the epoch that the trial reports."""
        holdout = result.get("holdout_loss")
        held = "" if holdout is None else f" hold-out {holdout:.2e}"
        self._latest = f"rank {result.get('rank')}: loss {result.get('loss', float('nan')):.2e}{held}"
        self._advance(trial.trial_id, int(result.get("epoch", 0)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Count a finished trial in full, also one that was stopped or found in the store."""
        self._finished += 1
        self._advance(trial.trial_id, self._epochs)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Count a trial that failed for good."""
        self._failed += 1
        self._advance(trial.trial_id, 0)

    def _advance(self, trial_id: str, epoch: int) -> None:
        before = self._done.get(trial_id, 0)
        self._done[trial_id] = max(before, epoch)
        self._bar.update(self._done[trial_id] - before)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.set_postfix_str(f"{self._finished}/{self._trials} trials{failed}; {self._latest}")

    def close(self) -> None:
        """Leave the bar on the screen and end its line."""
        self._bar.close()
