"""CUDA graphs: the update of a small model is a few hundred kernels, which take longer to launch than to run."""

from collections.abc import Callable

import torch

# Before a capture, PyTorch requires a few updates on another stream. They are ordinary updates.
_EAGER_UPDATES = 3


class GraphedUpdate:
    """Calls a function a few times, captures the next call as a CUDA graph, and replays the graph from then on.

    The function must read and write the same tensors in every call, must not transfer values from the GPU to the
    host, and must not leave gradients behind.
    """

    def __init__(self, update: Callable[[], None], device: torch.device):
        self.update = update
        self.device = device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.count = 0

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        elif self.count < _EAGER_UPDATES:
            current, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                self.update()
            current.wait_stream(side)
            self.count += 1
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # records without running
                self.update()
            self.graph = graph
            graph.replay()
