"""Settings of a run that takes seconds: the demo shop, small, through encoders without weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from mql4grec import config
from mql4grec.config import Settings

TINY = (
    "name=tiny",
    "catalog.datasets.0.n_items=60",
    "catalog.datasets.0.n_users=80",
    "catalog.k_core=2",
    "embeddings.text.kind=hashing",
    "embeddings.text.encoder=hashing",
    "embeddings.image.encoder=test_resnet",
    "embeddings.image.weights=random",
    "embeddings.image.batch_size=16",
    "translator.layers=[32]",
    "translator.e_dim=8",
    "translator.num_emb_list=[16, 16, 16]",
    "translator.sk_epsilons=[0, 0, 0.003]",
    "translator.epochs=6",
    "translator.warmup_steps=5",
    "translator.refit_epochs=3",
    "recommender.backbone=t5",
    "recommender.dropout=0",
    "recommender.d_model=16",
    "recommender.d_ff=32",
    "recommender.d_kv=8",
    "recommender.num_heads=2",
    "recommender.num_layers=1",
    "recommender.num_decoder_layers=1",
    "recommender.finetune.teacher_share=0",
    "recommender.finetune.select_by=loss",
    "recommender.finetune.lr=0.003",
    "recommender.finetune.batch_size=64",
    "recommender.finetune.micro_batch_size=32",
    "recommender.finetune.epochs=2",
    "recommender.finetune.samples_per_epoch=200",
    "decoding.n_beams=10",
    "sasrec.d_model=16",
    "sasrec.epochs=3",
    "evaluation.n_bootstrap=50",
    "report.n_users=2",
    "runtime.n_workers=0",
    "runtime.n_threads=1",
    "runtime.device=cpu",
)

RERANKED = (  # with it and a list of rankings to combine: texts alone, two ways, trees
    "evaluation.compare_seen=true",
    "evaluation.rerank=true",
    "embeddings.image.kind=none",
    "recommender.finetune.tasks=[seqrec]",
    "recommender.finetune.epochs=1",
    "translator.epochs=2",
    "sasrec.epochs=1",
)


def overrides(folder: Path, *more: str) -> list[str]:
    """Give `--set` values of a tiny run in `folder`."""
    return [*TINY, f"run_dir={folder}", *more]


def settings(folder: Path, *more: str) -> Settings:
    return config.load(config.demo_config(), overrides=overrides(folder, *more))


def as_options(values: Sequence[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def metrics_of(folder: Path) -> dict[str, dict[str, float]]:
    """Read the figures of every ranking of a run."""
    found: dict[str, dict[str, float]] = json.loads(
        (folder / "evaluation" / "metrics.json").read_text()
    )["rankings"]
    return found
