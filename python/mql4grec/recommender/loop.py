"""What one training does not change: model, samples, settings, machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.config import Modality, Task, TrainingSettings
from mql4grec.language import Branches, Corpus
from mql4grec.recommender.causal import CausalModel
from mql4grec.recommender.epochs import Epoch, Stage, cut, draw_epoch
from mql4grec.recommender.graphs import GraphSteps, Recordings
from mql4grec.recommender.model import Model
from mql4grec.recommender.teacher import Teacher
from mql4grec.runtime import Journal, Runtime

UNSETTLED = 16  # steps between two looks at the loss, the clock and what to save


@dataclass(frozen=True)
class Loop:
    """What one training does not change.

    Attributes:
        model: On its device.
        optimizer: Over all its parameters.
        corpus: All shops joined.
        tasks: Those that it has samples of.
        validation: The validation samples.
        settings: Of this training.
        stage: "pretrain" or "finetune".
        folder: Where best model, checkpoint and history go.
        runtime: The machine.
        journal: Silent on all processes but the main one.
        processes: What accelerate knows of the launch.
        mark: Which training this is; a checkpoint must have the same.
        n_samples: Of one epoch, the same in all of them.
        rivals: Among which tokens a target token has its probability, as in `summed_loss`.
        words: Of all items, as `language.spell_items` gives them, for a decoder-only model.
        branches: What can follow each prefix, by modality and level, for a decoder-only model, or a
            loss over that.
        teacher: Has a share in a decoder-only model's answers.
        graphs: Steps on a GPU whose kernels are launched together; None: one by one.
        recordings: Of such steps.
    """

    model: Model
    optimizer: torch.optim.AdamW
    corpus: Corpus
    tasks: tuple[Task, ...]
    validation: Epoch
    settings: TrainingSettings
    stage: Stage
    folder: Path
    runtime: Runtime
    journal: Journal
    processes: PartialState
    mark: str
    n_samples: int
    rivals: Tensor | None
    words: NDArray[np.int64]
    branches: dict[Modality, list[Branches]]
    teacher: Teacher | None
    graphs: GraphSteps | None = None
    recordings: Recordings | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products."""
        return torch.bfloat16 if self.runtime.precision == "bf16" else torch.float32

    @property
    def keeps_padding(self) -> bool:
        """On a GPU a little padding takes less time than attention's kernels for every length."""
        return self.model.device.type != "cpu"

    @property
    def n_unsettled(self) -> int:
        """Optimizer steps that a device may be behind; a CPU is not, and its steps can be long."""
        return 1 if self.model.device.type == "cpu" else UNSETTLED

    @property
    def n_steps(self) -> int:
        """Optimizer steps of one epoch; the last one may have fewer samples."""
        return -(-self.n_samples // self.settings.batch_size)

    def draw(self, number: int) -> Epoch:
        """Draw the samples of epoch `number`."""
        return draw_epoch(
            self.corpus,
            self.tasks,
            seed=self.runtime.seed,
            stage=self.stage,
            number=number,
            limit=self.settings.samples_per_epoch,
            whole=isinstance(self.model, CausalModel),
        )

    def cut(
        self,
        epoch: Epoch,
        rows: NDArray[np.int64],
        *,
        at_least: int = 1,
        is_sorted: bool = True,
    ) -> list[NDArray[np.int64]]:
        """Cut rows of an epoch into micro-batches, of `at_least` so many."""
        return cut(
            epoch,
            rows,
            micro_batch_size=max(self.settings.micro_batch_size, at_least),
            n_processes=self.processes.num_processes,
            is_sorted=is_sorted,
        )

    def total(self, *values: float) -> tuple[float, ...]:
        """Add numbers of all processes; every process gets the same sums."""
        if self.processes.num_processes == 1:
            return values
        own = torch.tensor(values, dtype=torch.float64, device=self.model.device)
        return tuple(reduce(own, reduction="sum").tolist())
