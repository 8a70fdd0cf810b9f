"""The product of PerSim in one kernel of Triton: a state's way through the encoder to its difference, without a stop.

Layer by layer, the hidden units of all plans and members go to the memory of a GPU and back several times, which takes
most of a rollout. Here a block of plans keeps them in the registers of one multiprocessor, and only the weights of its
member come in. It needs Triton, which PyTorch brings along on a GPU; this module can only be imported with it.

``gpu.py`` measures it as the ``product`` of a ``PreparedScorer``. It stands here, not in the package, until a GPU has
shown that it pays: so far it only ran in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from persim.learning.model import LowRankDynamics

BLOCK, WARPS = 128, 8  # plans of a block, and its warps
LEAST, WIDEST = 16, 256  # sizes of a product on tensor cores; two layers of a wider one do not fit a multiprocessor


@triton.jit
def _kernel(
    states, weights, first, first_bias, hidden, hidden_bias, last, last_bias, out, count, state_stride, weight_stride,
    S: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, LAYERS: tl.constexpr, R: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of plans of one member; matrices are packed by ``FusedProduct``."""
    member, row = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column, unit = tl.arange(0, COLUMNS), tl.arange(0, WIDTH)
    inside = (row < count)[:, None] & (column < S)[None, :]
    place, kind = row[:, None] * S + column[None, :], first.dtype.element_ty
    x = tl.load(states + member * state_stride + place, mask=inside, other=0.0).to(kind)
    matrix = tl.load(first + member * COLUMNS * WIDTH + column[:, None] * WIDTH + unit[None, :])
    h = tl.dot(x, matrix) + tl.load(first_bias + member * WIDTH + unit)[None, :]
    h = tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL).to(kind)
    for layer in tl.static_range(LAYERS):
        index = member * LAYERS + layer
        matrix = tl.load(hidden + index * WIDTH * WIDTH + unit[:, None] * WIDTH + unit[None, :])
        h = tl.dot(h, matrix) + tl.load(hidden_bias + index * WIDTH + unit)[None, :]
        h = tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL).to(kind)
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for r in range(R):
        index = member * R + r
        matrix = tl.load(last + index * WIDTH * COLUMNS + unit[:, None] * COLUMNS + column[None, :])
        factor = tl.load(weights + member * weight_stride + row * R + r, mask=row < count, other=0.0).to(tl.float32)
        v = tl.dot(h, matrix) + tl.load(last_bias + index * COLUMNS + column)[None, :]
        total += v * factor[:, None]
    tl.store(out + member * count * S + place, total, mask=inside)


class FusedProduct:
    """Predicts scaled state differences from scaled states and the other factors.

    Args:
        model: one that ``fits``.
        dtype: of what is multiplied, two bytes a number; sums are float32.
    """

    def __init__(self, model: LowRankDynamics, dtype: torch.dtype = torch.bfloat16) -> None:
        shape = model.settings
        self._width, self._columns = shape.state_widths[0], padded(shape.state_dim)
        self._states, self._rank, self._members = shape.state_dim, shape.rank, shape.members
        first, *hidden = (layer.detach().mT for layer in model.state_layers[:-1])  # [K, in + 1, out]
        extra = self._columns - shape.state_dim
        last = model.state_layers[-1].detach().view(shape.members, shape.state_dim, shape.rank, -1)
        last = nn.functional.pad(last.permute(0, 2, 3, 1), (0, extra))  # [K, R, in + 1, columns]
        none = first.new_empty(shape.members, 0, self._width + 1, self._width)
        between = torch.stack(hidden, 1) if hidden else none
        wide = nn.functional.pad(first[:, :-1], (0, 0, 0, extra))
        parts = wide, first[:, -1], between[:, :, :-1], between[:, :, -1], last[:, :, :-1], last[:, :, -1]
        self._matrices = [part.to(dtype).contiguous() for part in parts]
        self._layers = len(hidden)

    @staticmethod
    def fits(model: LowRankDynamics) -> bool:
        """Tells whether a model has hidden layers of one width that the kernel can hold."""
        widths, states = set(model.settings.state_widths), model.settings.state_dim
        width = max(widths, default=0)
        return len(widths) == 1 and LEAST <= width == padded(width) <= WIDEST and padded(states) <= WIDEST

    def __call__(self, states: Tensor, weights: Tensor) -> Tensor:
        """Returns ``[K, C, S]`` for states ``[K, C, S]`` or ``[1, C, S]`` and products of u and w ``[K, C, R]``."""
        count, shared = states.shape[1], len(states) == 1
        states, out = states.contiguous(), states.new_empty(self._members, count, self._states)
        assert weights.stride()[1:] == (self._rank, 1)
        grid = (triton.cdiv(count, BLOCK), self._members)
        _kernel[grid](
            states, weights, *self._matrices, out, count, 0 if shared else count * self._states, weights.stride(0),
            S=self._states, COLUMNS=self._columns, WIDTH=self._width, LAYERS=self._layers, R=self._rank, BLOCK=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
        return out


def padded(size: int) -> int:
    """Rounds up to a power of two that is a size of a product on tensor cores."""
    return max(LEAST, 1 << (size - 1).bit_length())
