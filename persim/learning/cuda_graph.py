"""CUDA graphs: work on static buffers that is captured once, then replayed with one launch.

Steps of small networks on a GPU are bound by launches: hundreds of kernels of a few microseconds each. A graph
launches all of them at once. On a CPU everything here calls what it is given, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor

WARM_UP = 2  # calls before the capture
_logger = logging.getLogger(__name__)


class Replayed:
    """A function that is called many times on the same buffers; on a GPU it becomes one CUDA graph.

    The first calls run as they are, on a stream of their own: then libraries allocate their workspaces. The next one is
    captured, and it and all later ones are replayed. Where the capture fails, every call runs as it is.

    Args:
        function: returns a tensor. All that it reads and writes has to lie in tensors that stay where they are, and it
            may not look at any value of them: numbers, shapes and branches are those of the capture.
        device: of the tensors.
    """

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        self._function, self._on_gpu, self._calls = function, device.type == "cuda", 0
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def captured(self) -> bool:
        """Whether calls are replayed."""
        return self._graph is not None

    def __call__(self) -> Tensor:
        """Returns what the function returns; the next replay overwrites it."""
        if not self._on_gpu:
            return self._function()
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._apart()
        if self._calls == WARM_UP + 1:
            self._capture()
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._output

    def _apart(self) -> Tensor:
        """Calls the function on a stream of its own, as the capture will."""
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            output = self._function()
        stream.wait_stream(side)
        output.record_stream(stream)
        return output

    def _capture(self) -> None:
        """Captures a call, which does not run it."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._output = self._function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _logger.warning("no CUDA graph could be captured (%s); it is slower without", error)
            return
        self._graph = graph


class Branch:
    """Work beside the rest: ``with branch`` on a GPU runs on a stream of its own, on a CPU in its turn.

    It begins after all work that was given before it, and ends before what follows ``join``. In a CUDA graph the
    kernels of a branch fill the part of the GPU that small products leave idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
            self._context = torch.cuda.stream(self._stream)
            self._context.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._context.__exit__(kind, error, trace)

    def join(self) -> None:
        """Makes what follows wait for the branch."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
