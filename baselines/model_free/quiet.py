"""d3rlpy without the banner of the old gym, which its import prints, and without its log on the terminal."""

import logging

import gym_notices.notices
import structlog

gym_notices.notices.notices.clear()  # printed, so no warnings filter could catch it

import d3rlpy  # noqa: E402 (after its banner is gone)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

__all__ = ["d3rlpy"]
