"""Theorem 1 in numbers: how well sums of r rank-one terms approximate the true dynamics.

The theorem says that a function ``sum_l u_l(agent) v_l(state, d) w_l(action)`` comes close to the next state of every
agent n, state s, state dimension d and action a. For finitely many of them that is a CP decomposition of rank r of a
tensor agent x action x (state, d). Here are the tensor, its best decompositions as far as they can be found, and the
function that the theorem's proof builds: constant on the cells of a partition of the agents and of the actions.

The tensor holds state differences, as the model predicts them: the state itself is one more term, (1, s_d, 1), and
adds nothing where the differences have a term with constant u and w. Every state dimension is divided by the root mean
square of its differences, so that all count the same.

Axis letters: N agents, A actions, M states, S state dimensions, R rank, B starts, K directions of the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from persim.envs.spec import Actions, Array, EnvSpec

DIRECTIONS = 100  # of the states that are kept while u and w are searched; HalfCheetah's hold all but 2 % of the norm
EXACT = 1e-12  # an error below is rounding
SWEEPS, CHECK_EVERY, LEAST_GAIN = 2000, 20, 1e-4
_PULL = 1e-12  # towards the last iterate, as a share of the mean diagonal: what data do not determine stays as it is


@dataclass(frozen=True)
class Sample:
    """The true state differences of every agent in every state under every action.

    Attributes:
        tensor: ``[N, A, M * S]``; the root mean square of each state dimension is 1.
        agents: covariates scaled to [0, 1] by their ranges ``[N, C]``.
        actions: continuous ones scaled to [0, 1] by their bounds, discrete ones one-hot ``[A, ...]``.
        clipped: states ``[M]`` from which some step ends at a bound of the observation space, such as a wall.
    """

    tensor: Array
    agents: Array
    actions: Array
    clipped: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def inside(self) -> Sample:
        """The same without the ``clipped`` states."""
        kept = self.tensor.reshape(*self.tensor.shape[:2], len(self.clipped), -1)[:, :, ~self.clipped]
        return replace(self, tensor=kept.reshape(*kept.shape[:2], -1), clipped=self.clipped[~self.clipped])


@dataclass(frozen=True)
class Approximation:
    """The best decomposition of a rank that was found.

    Attributes:
        rank: R.
        error: norm of what is missing, as a share of the tensor's (Frobenius).
        max_error: the largest missing entry, in root mean squares of its state dimension: what Theorem 1 bounds.
        cover_error: ``error`` of what the theorem's proof builds with as many terms.
    """

    rank: int
    error: float
    max_error: float
    cover_error: float


def sample(spec: EnvSpec, covariates: Array, states: Array, actions: int, rng: np.random.Generator) -> Sample:
    """Step every agent from every state under every action.

    Args:
        spec: the environment.
        covariates: ``[N, C]``.
        states: ``[M, S]``; one from which a step does not end in finite numbers is left out.
        actions: how many to draw uniformly, if they are continuous; of discrete ones all are taken.
        rng: draws them.
    """
    shape = actions, spec.action_dim
    scaled = np.eye(spec.action_dim) if spec.discrete else rng.uniform(size=shape)
    chosen = _actions(spec, scaled)
    n, a, m = (index.ravel() for index in np.indices((len(covariates), len(chosen), len(states))))
    after = spec.step(states[m], chosen[a], covariates[n]).reshape(len(covariates), len(chosen), *states.shape)
    usable = np.isfinite(after).all(axis=(0, 1, 3))
    ends, bounds = after[:, :, usable].astype(np.float32), spec.observation_space
    clipped = ((ends == bounds.low) | (ends == bounds.high)).any(axis=(0, 1, 3))
    found = (after - states)[:, :, usable]
    unit = np.sqrt(np.square(found).mean(axis=(0, 1, 2)))
    unit[unit == 0] = 1
    low, high = np.array([(covariate.low, covariate.high) for covariate in spec.covariates]).T
    tensor = (found / unit).reshape(*found.shape[:2], -1)
    return Sample(tensor, (covariates - low) / (high - low), scaled, np.asarray(clipped))


def _actions(spec: EnvSpec, scaled: Array) -> Actions:
    """The actions ``[A]`` or ``[A, dims]`` of the rows of ``Sample.actions``."""
    if isinstance(spec.action_space, Discrete):
        return np.asarray(scaled.argmax(axis=1), dtype=np.int64)
    low, high = spec.action_space.low, spec.action_space.high
    return np.asarray(low + scaled * (high - low), dtype=np.float32)


def approximations(found: Sample, ranks: Sequence[int], starts: int, rng: np.random.Generator) -> list[Approximation]:
    """Find the best decomposition of each of these ranks, in increasing order, up to the first that is exact.

    Each is searched by alternating least squares from ``starts`` starts at least: the better half of them diagonalise
    two random mixtures of the actions' slices at once (which solves a tensor that has this rank exactly), the others
    are random, and one more goes on from the rank before with a random new term.
    """
    tensor, results = found.tensor, list[Approximation]()
    rows = tensor.reshape(-1, tensor.shape[2])
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    core = (left[:, :DIRECTIONS] * values[:DIRECTIONS]).reshape(*tensor.shape[:2], -1)
    last: tuple[Array, Array] | None = None
    for rank in ranks:
        u, w = _fit(core, *_starts(core, rank, starts, last, rng))
        last = u, w
        joined = _joined(u[None], w[None])[0]
        missing = rows - joined @ np.linalg.lstsq(joined, rows, rcond=None)[0]
        error = float(np.linalg.norm(missing) / np.linalg.norm(rows))
        results.append(Approximation(rank, error, float(np.abs(missing).max()), cover_error(found, rank)))
        if error < EXACT:
            break
    return results


def _starts(
    core: Array, rank: int, starts: int, last: tuple[Array, Array] | None, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Initial u ``[B, N, R]`` and w ``[B, A, R]``."""
    sizes = core.shape[:2]
    found = [_diagonalised(core, rank, rng) for _ in range((starts + 1) // 2)]
    found += [(rng.normal(size=(sizes[0], rank)), rng.normal(size=(sizes[1], rank))) for _ in range(starts // 2)]
    if last is not None:
        u, w = (_padded(factor, rank, rng) for factor in last)
        found.append((u, w))
    return np.stack([u for u, _ in found]), np.stack([w for _, w in found])


def _padded(factor: Array, rank: int, rng: np.random.Generator) -> Array:
    """Add random columns to a factor ``[F, r]``, up to ``[F, R]``."""
    more = rng.normal(size=(len(factor), rank - factor.shape[1]))
    return np.concatenate([factor, more / np.sqrt(len(factor))], axis=1)


def _diagonalised(core: Array, rank: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Start from the eigenvectors of one mixture of slices times the inverse of another.

    With as many terms as a tensor has, ``T_c = U diag(c W) V'`` for mixtures c of its slices, so that u are the
    eigenvectors of ``T_c T_d^-1`` (Leurgans, Ross and Abel 1993). Complex pairs are replaced by their plane.
    """
    size = min(rank, len(core), core.shape[2])
    basis = np.linalg.svd(core.reshape(len(core), -1), full_matrices=False)[0][:, :size]
    small = np.einsum("nr,nak->rak", basis, core[:, :, :size])
    one, two = np.einsum("ca,rak->crk", rng.normal(size=(2, core.shape[1])), small)
    values, vectors = np.linalg.eig(one @ np.linalg.pinv(two))
    u = basis @ np.where(values.imag < 0, vectors.imag, vectors.real)
    terms = np.einsum("rn,nak->rak", np.linalg.pinv(u), core)
    w = np.linalg.svd(terms, full_matrices=False)[0][:, :, 0].T
    return _padded(u, rank, rng), _padded(w, rank, rng)


def _fit(core: Array, u: Array, w: Array) -> tuple[Array, Array]:
    """Alternate least squares from all starts at once; return the u ``[N, R]`` and w ``[A, R]`` of the best.

    Between sweeps u and w go on in the direction of the last change by Nesterov's steps, begun anew where the error
    grew (Mitchell, Ye and De Sterck 2020): without it the search stalls for thousands of sweeps.
    """
    rows, total = core.reshape(-1, core.shape[2]), np.linalg.norm(core)
    before, checked = np.full(len(u), np.inf), np.inf
    speed, ahead, last = np.ones(len(u)), (_unit(u), _unit(w)), (_unit(u), _unit(w))
    for sweep in range(1, SWEEPS + 1):
        u, v, w = _sweep(core, *ahead)
        error = np.linalg.norm(rows - _joined(u, w) @ v.mT, axis=(1, 2)) / total
        speed = np.where(error > before, 1.0, speed)
        faster = (1 + np.sqrt(1 + 4 * speed**2)) / 2
        share = np.where(error > before, 0.0, (speed - 1) / faster)[:, None, None]
        now = _unit(u), _unit(w)
        ahead = now[0] + share * (now[0] - last[0]), now[1] + share * (now[1] - last[1])
        speed, before, last = faster, error, now
        if sweep % CHECK_EVERY == 0:
            if error.min() < EXACT or checked - error.min() < LEAST_GAIN * error.min():
                break
            checked = error.min()
    best = int(error.argmin())
    return last[0][best], last[1][best]


def _sweep(core: Array, u: Array, w: Array) -> tuple[Array, Array, Array]:
    """Solve for v ``[B, K, R]``, then for u ``[B, N, R]``, then for w ``[B, A, R]``, each given the others."""
    agents, actions, states = core.shape
    gram_u, gram_w = u.mT @ u, w.mT @ w
    right = core.reshape(-1, states).T @ _joined(u, w)
    v = _solved(gram_u * gram_w, right, np.zeros_like(right))
    v = _solved(gram_u * gram_w, right, v)  # once more, so that the pull towards zero is gone
    u = _solved(gram_w * (v.mT @ v), core.reshape(agents, -1) @ _joined(w, v), u)
    w = _solved((u.mT @ u) * (v.mT @ v), core.swapaxes(0, 1).reshape(actions, -1) @ _joined(u, v), w)
    return u, v, w


def _solved(gram: Array, right: Array, last: Array) -> Array:
    """Solve ``x gram = right`` for x ``[B, F, R]``, ``gram`` being ``[B, R, R]``, with a slight pull to ``last``."""
    pull = _PULL * np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[1]
    return np.linalg.solve(gram + pull * np.eye(gram.shape[1]), (right + pull * last).mT).mT


def _joined(one: Array, two: Array) -> Array:
    """The columnwise products of factors ``[B, F, R]`` and ``[B, G, R]``, ``[B, F * G, R]`` (Khatri and Rao)."""
    return (one[:, :, None] * two[:, None]).reshape(len(one), -1, one.shape[2])


def _unit(factor: Array) -> Array:
    """Scale the columns of factors ``[B, F, R]`` to length 1."""
    return np.asarray(factor / np.linalg.norm(factor, axis=1, keepdims=True))


def cover_error(found: Sample, rank: int) -> float:
    """The error of the proof's function with at most this many terms, in the best split between agents and actions.

    It has one term for each pair of a cell of agents and a cell of actions, and is the dynamics of the agent and the
    action that stand for their cells. The cells are those of a farthest-first traversal.
    """
    tensor, agents, actions = found.tensor, list(_covers(found.agents)), list(_covers(found.actions))
    errors = []
    for cells in range(1, min(rank, len(agents)) + 1):
        who, what = agents[cells - 1], actions[min(rank // cells, len(actions)) - 1]
        errors.append(np.linalg.norm(tensor - tensor[who][:, what]))
    return float(min(errors) / np.linalg.norm(tensor))


def _covers(points: Array) -> Iterator[NDArray[np.int64]]:
    """For 1, 2, ... cells, the index ``[F]`` of the point that stands for each of the points ``[F, dims]``."""
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    chosen = [int(distance.max(axis=1).argmin())]  # the point in the middle
    for _ in range(len(points)):
        yield np.array(chosen)[distance[:, chosen].argmin(axis=1)]
        chosen.append(int(distance[:, chosen].min(axis=1).argmax()))
