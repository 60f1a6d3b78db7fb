"""A training of seconds: a T5 of one layer on a shop of twelve items."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import tiny_language as tiny
from mql4grec import recommender
from mql4grec.config import RecommenderSettings, TrainingSettings
from mql4grec.language import Corpus
from mql4grec.runtime import Journal, Runtime

SIZES = {
    "d_model": 16,
    "d_ff": 32,
    "d_kv": 8,
    "num_heads": 2,
    "num_layers": 1,
    "num_decoder_layers": 1,
}


class Recorder(Journal):
    """Keeps what it is told; raises KeyboardInterrupt after some optimizer steps."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.done = 0
        self._steps_left = stop_after

    def log(self, event: str, /, *, step: int | None = None, **values: Any) -> None:
        self.events.append((event, {"step": step, **values}))

    @contextmanager
    def track(
        self, description: str, *, total: int, done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        self.done = done

        def advance(n: int) -> None:
            self.done += n
            if self._steps_left is not None:
                self._steps_left -= 1
                if self._steps_left == 0:
                    raise KeyboardInterrupt

        yield advance
        assert self.done <= total


def settings(**values: Any) -> TrainingSettings:
    defaults = {"batch_size": 32, "micro_batch_size": 8, "epochs": 3, "lr": 0.01}
    return TrainingSettings(**{**defaults, **values})


def shop(*, n_users: int = 25, seed: int = 0, **values: Any) -> Corpus:
    return tiny.corpus(tiny.random_histories(n_users, 12, seed=seed), seed=seed, **values)


def network(
    one: Corpus, *, dropout: float = 0.1, seed: int = 7, backbone: str = "t5"
) -> recommender.Model:
    sizes = RecommenderSettings(**SIZES, dropout=dropout, backbone=backbone)
    return recommender.build(one.vocabulary, sizes, seed=seed, max_his_len=one.max_his_len)


def train(
    folder: Path,
    *,
    corpora: Sequence[Corpus] | None = None,
    journal: Journal | None = None,
    dropout: float = 0.1,
    stage: str = "finetune",
    checkpoint_seconds: float = 1e-9,
    backbone: str = "t5",
    ndcg: Callable[[recommender.Model], float] | None = None,
    teacher: recommender.Teacher | None = None,
    **values: Any,
) -> recommender.Model:
    corpora = corpora or [shop()]
    return recommender.train(
        network(corpora[0], dropout=dropout, backbone=backbone),
        corpora,
        settings(**values),
        stage=stage,
        folder=folder,
        runtime=Runtime(seed=3, checkpoint_seconds=checkpoint_seconds),
        journal=journal or Recorder(),
        ndcg=ndcg,
        teacher=teacher,
    )


def weights(model: recommender.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
