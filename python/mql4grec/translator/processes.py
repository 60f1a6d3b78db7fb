"""The processes of a training: each has its share of every batch, and all know the same codebooks.

What needs a whole batch (Sinkhorn, moving averages, restarts) or all rows (k-means, metrics) is
computed by every process alike, from latents or codes that were put together; these are small. The
two MLPs, which are nearly all of the work, see a process's own rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mql4grec.runtime import n_processes, wait_for_everyone


@dataclass(frozen=True)
class Processes:
    """One of several processes that train together.

    Attributes:
        rank: Its number.
        count: How many there are.
        device: Of this one.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tell whether this is the one that writes files."""
        return self.rank == 0

    def share(self, n_rows: int) -> slice:
        """Give this process's part of some rows."""
        return slice(self.rank * n_rows // self.count, (self.rank + 1) * n_rows // self.count)

    def put_together(self, part: Tensor, *, n_rows: int) -> Tensor:
        """Give all rows (N, ...), of which every process has its share."""
        if self.count == 1:
            return part
        whole = part.new_zeros((n_rows, *part.shape[1:]))
        whole[self.share(n_rows)] = part
        return _sum(whole)

    def add_gradients(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Let every process have the sum of all gradients, by one message.

        Args:
            parameters: The same in all processes; without a gradient in all or in none.
            values: (V,), added up in the same message.

        Returns:
            The sums of `values` (V,).
        """
        if self.count == 1:
            return values
        learning = [p for p in parameters if p.grad is not None]
        flat = [p.grad.flatten() for p in learning if p.grad is not None]
        summed = _sum(torch.cat([*flat, values]))
        parts = torch.split(summed, [*(p.numel() for p in learning), len(values)])
        for parameter, part in zip(learning, parts[:-1], strict=True):
            parameter.grad = part.view_as(parameter)
        return parts[-1]

    def wait(self) -> None:
        """Wait for the others."""
        wait_for_everyone(cpu=self.device.type == "cpu")


def join(device: torch.device) -> Processes:
    """Find out about the processes that `accelerate launch` or `torchrun` started.

    Args:
        device: Of a process that is alone; several on GPUs have one each.
    """
    if n_processes() == 1:
        return Processes(0, 1, device)
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Processes(state.process_index, state.num_processes, torch.device(state.device))


def _sum(values: Tensor) -> Tensor:
    from accelerate.utils import reduce

    summed: Tensor = reduce(values, reduction="sum")
    return summed
