"""Typed settings, one record per room.

The defaults are the paper's. Annotations give types and ranges, comments units and meaning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Modality = Literal["text", "image"]
Task = Literal[
    "seqrec",
    "seqimage",
    "item2image",
    "image2item",
    "seqitem2image",
    "seqimage2item",
    "fusionseqrec",
    "fgfusionseqrec",
]
FaultPolicy = Literal["drop", "error"]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

MODALITIES: tuple[Modality, ...] = get_args(Modality)
MADE_OF_OTHERS = ("fused", "combined", "reranked")
RANKINGS = (*MODALITIES, *MADE_OF_OTHERS, "popular", "item_knn", "ease", "ease_codes", "sasrec")
PAPER_TASKS: tuple[Task, ...] = ("seqrec", "seqimage", "item2image", "image2item", "fusionseqrec")


class Record(BaseModel):
    """Base of all settings: unknown keys are faults, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RuntimeSettings(Record):
    """What a run assumes about the machine; only `precision` is part of a stage's fingerprint."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    n_threads: int | None = Field(default=None, gt=0)  # of torch; None: its own choice
    n_workers: int = Field(default=2, ge=0)  # data-loader processes that open pictures
    checkpoint_seconds: float = Field(default=60, gt=0)  # the most that an interruption can lose
    tensorboard: bool = False


class DatasetSettings(Record):
    """One shop: where its files are and how they are laid out.

    Paths are relative to the current directory.
    """

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9_\-]+$")
    format: Literal["tables", "recbole", "amazon2018", "amazon2023", "authors", "demo"] = "tables"
    root: Path | None = None  # recbole, authors: the folder that holds the folder NAME
    interactions: Path | None = None  # tables, amazon: CSV, Parquet, JSON lines, possibly .gz
    items: Path | None = None  # the same; None: items known from interactions only
    images: str | None = None  # pattern of picture files, e.g. "posters/{item_id}.jpg"
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str | None = "timestamp"  # None: the order of the rows is the order in time
    item_id_column: str = "item_id"  # in the items table
    title_column: str | None = "title"
    description_columns: tuple[str, ...] = ("description",)
    image_column: str | None = None  # path of each item's picture, relative to the table
    images_outside: bool = False  # open pictures outside the folder of table, root or pattern too
    modalities: tuple[Modality, ...] = Field(default=MODALITIES, min_length=1)  # that it has
    text_index: Path | None = None  # given semantic IDs instead of a translator's
    image_index: Path | None = None
    n_items: Positive = 1000  # demo only
    n_users: Positive = 2000  # demo only


class CatalogSettings(Record):
    """Room `catalog`: which shops, how they are cleaned and split."""

    datasets: tuple[DatasetSettings, ...] = Field(min_length=1)
    target: str | None = None  # the shop to fine-tune on and recommend for; None: the first
    k_core: int = Field(default=5, ge=0)  # users and items with fewer events go, iterated; 0: none
    duplicate_rows: FaultPolicy = "drop"
    missing_values: FaultPolicy = "drop"
    unknown_items: FaultPolicy = "drop"  # interactions with items that the items table lacks
    short_users: FaultPolicy = "drop"  # users with fewer than 3 events
    bad_timestamps: FaultPolicy = "drop"
    cold_items: float = Field(default=0, ge=0, lt=1)
    """Share of each shop's items, drawn by the seed, that training is not to know, to measure how
    items that nobody has had yet are recommended: their events are left out, but for users' last
    two, which are for validation and test. What is refitted (`evaluation.refit`) knows the last but
    one; users who keep fewer than 3 events go."""


class TextEncoderSettings(Record):
    """Room `embeddings`, modality text."""

    kind: Literal["transformers", "hashing", "none"] = "transformers"
    encoder: str = "huggyllama/llama-7b"
    """The paper's; a name, a folder, or "minilm" of the extra `encoders`."""
    batch_size: Positive = 32
    max_tokens: Positive = 512


class ImageEncoderSettings(Record):
    """Room `embeddings`, modality image."""

    kind: Literal["open_clip", "timm", "none"] = "open_clip"
    encoder: str = "ViT-L-14"
    """The paper's; or a timm name, or "efficientnet-lite0" of the extra `encoders`."""
    weights: str = "openai"  # open_clip tag, "pretrained" (timm), local checkpoint, or "random"
    batch_size: Positive = 64


class EmbeddingsSettings(Record):
    """Room `embeddings`: the encoders, and what happens to items that have nothing to encode."""

    text: TextEncoderSettings = TextEncoderSettings()
    image: ImageEncoderSettings = ImageEncoderSettings()
    missing: Literal["mark", "error"] = "mark"  # pictures or texts that are missing or unreadable


class TranslatorSettings(Record):
    """Room `translator`: one translator per modality, trained on all shops together.

    The defaults are the recipe that measured best (`benches/RESULTS.md`); the paper's, where it
    differs, is in `configs/paper.yaml`, and in brackets here.
    """

    kind: Literal["rqvae", "rqkmeans"] = "rqvae"
    """"rqvae", the paper's; "rqkmeans", principal components, then k-means level by level: no
    network, no gradient, seconds. It takes, of the settings below, `e_dim` (as many components; at
    least the embeddings' width: none are left out), `num_emb_list`, `kmeans_iters` and
    `kmeans_rows`."""
    trained: Path | None = None
    """Folder `translator` of an earlier run, used as it is; None: translators are trained."""
    layers: tuple[Positive, ...] = (2048, 1024, 512, 256, 128, 64)  # hidden widths of the encoder
    e_dim: Positive = 32
    num_emb_list: tuple[Annotated[int, Field(ge=2, le=65536)], ...] = Field(
        default=(256, 256, 256, 256), min_length=2, max_length=8
    )
    sk_epsilons: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 0.0, 0.0, 0.003)
    sk_iters: Positive = 50
    beta: float = Field(default=0.25, ge=0)  # weight of the commitment loss
    quant_loss_weight: float = Field(default=1.0, ge=0)
    dropout: Fraction = 0.0
    kmeans_iters: Positive = 100
    kmeans_rows: Positive = 1_000_000  # that k-means looks at; more are drawn from
    kmeans_balance: float = Field(default=0.003, ge=0)
    """Sinkhorn's epsilon of k-means with clusters of about the same size; 0: plain k-means (0)."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of plain autoencoder before k-means on all rows; 0: k-means on the first batch of the
    untrained encoder (0)."""
    refit_epochs: int = Field(default=20, ge=0)
    """K-means on all rows again after every so many epochs; 0: never (0)."""
    restart_after: int = Field(default=0, ge=0)
    """A code that no row of a batch has had for so many steps becomes the residual of some row; 0:
    never (0)."""
    codebooks: Literal["gradient", "average"] = "gradient"
    """How codebooks learn: by the codebook loss; or each code as the moving average of the
    residuals that have it (gradient)."""
    average_decay: float = Field(default=0.99, gt=0, lt=1)  # what an average keeps in a step
    estimator: Literal["straight", "rotation"] = "straight"
    """How the decoder's gradient passes the codes: straight through; or by the rotation from a
    latent to the sum of its codes (straight)."""
    unit_latents: bool = False  # latents of length 1: the first level goes by angles (cosine)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    batch_size: Positive = 2048
    epochs: Positive = 500
    eval_step: Positive = 2  # epochs
    keep: Literal["collision_rate", "loss", "last"] = "last"
    """Which network of all evaluations is used: that of the lowest collision rate, of the lowest
    loss, or the last; all three are written (collision_rate)."""
    balance: Fraction = 0.0
    """How alike in size the shops are to a training: a shop of n rows has a part in proportion to
    n to the power of 1 - balance; 0: every row as often; 1: every shop (0)."""
    storage: Literal["fp32", "fp16", "bf16"] = "fp32"  # of the embeddings while training
    max_memory_gib: float | None = Field(default=None, gt=0)
    """What the embeddings may take on the device; more of them are read from their files as they
    are needed. None: half of a GPU's free, or of a computer's memory."""
    graphs: bool = False  # on a CUDA device, one process: launch a step together, as a CUDA graph

    @property
    def max_memory(self) -> int | None:
        """Give `max_memory_gib` in bytes."""
        return None if self.max_memory_gib is None else int(self.max_memory_gib * 2**30)

    @model_validator(mode="after")
    def _one_epsilon_per_level(self) -> Self:
        if len(self.sk_epsilons) != len(self.num_emb_list):
            raise ValueError(
                f"`sk_epsilons`: expected {len(self.num_emb_list)} values, one per level of "
                f"`num_emb_list`, got {len(self.sk_epsilons)}"
            )
        return self


class CodesSettings(Record):
    """Room `codes`: what happens to items that share a semantic ID."""

    policy: Literal["paper", "nearest", "optimal"] = "paper"
    """How items that share a semantic ID get others, all but one: "paper", the published rule, the
    nearest free code of the last level first; "nearest", the free semantic ID of least error, item
    by item; "optimal", those of least total error for all items of a prefix together."""
    keep: Literal["nearest", "max_loss"] = "nearest"
    """Who stays: the item nearest to its last code, as published; or who would lose most."""
    reassign: Literal["movers", "colliding"] = "movers"
    """Which items "optimal" may move: as few as have to; or all that share a semantic ID."""
    open_levels: int = Field(default=2, ge=2, le=8)  # of the last, that may change from the start
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the translator's products: "tf32" (on a GPU) and "bf16" give other codes to some
    items, and are meant for a GPU."""
    extend: tuple[Path, ...] = ()
    """Index files of an older catalog: its items keep their codes, and free them when gone."""
    max_memory_gib: float | None = Field(default=None, gt=0)
    """What translating and resolving may take, beside pages of mapped files; None: 1 GiB and 24
    bytes per item."""
    json_max_items: int = Field(default=1_000_000, ge=0)  # larger shops: an index in Parquet only
    shared: Literal["repair", "refuse"] = "repair"  # for given index files with shared codes

    @property
    def max_memory(self) -> int | None:
        """Give `max_memory_gib` in bytes."""
        return None if self.max_memory_gib is None else int(self.max_memory_gib * 2**30)

    @model_validator(mode="after")
    def _colliding_by_optimal_alone(self) -> Self:
        if self.reassign == "colliding" and self.policy != "optimal":
            raise ValueError(
                "`reassign`: expected 'movers' unless `policy` is 'optimal', got 'colliding' with "
                f"{self.policy!r}"
            )
        return self


class QualitySettings(Record):
    """Room `quality`: how closely the codes are looked at before a T5 learns them."""

    n_items: Positive = 5000  # a random sample of so many; a shop with fewer is looked at whole
    n_neighbours: Positive = 10  # of each of them, among all items
    n_examples: int = Field(default=4, ge=0)  # items shown with their nearest


class LanguageSettings(Record):
    """Room `language`: vocabulary and tasks."""

    tokenizer: str = "compact"  # or the folder of a T5 tokenizer, which is then extended
    n_prompt_tokens: Positive = 4
    max_his_len: Positive = 20  # items
    samples: Literal["prefixes", "longest", "windows"] = "prefixes"
    """Training pairs: every prefix of a history; the longest; random windows, new each epoch. A
    decoder-only model learns all prefixes of a history in one pass; with "windows" every second
    history, drawn anew each epoch, is cut before a random item."""


class TrainingSettings(Record):
    """One training of the model."""

    datasets: tuple[str, ...] = ()  # names; pre-training only, empty: no pre-training
    tasks: tuple[Task, ...] = Field(default=PAPER_TASKS, min_length=1)
    lr: float = Field(default=5e-4, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.01  # of all steps
    weight_decay: float = Field(default=0.01, ge=0)
    batch_size: Positive = 1024  # samples of one optimizer step, over all processes
    micro_batch_size: Positive = 128  # samples of one forward pass
    epochs: Positive = 200
    samples_per_epoch: int | None = Field(default=None, gt=0)  # a random part; None: all of them
    validation_samples: int | None = Field(default=None, gt=0)  # a fixed random part; None: all
    select_by: Literal["loss", "ndcg"] = "loss"
    """Which epoch is the best, for what is kept and for patience: the one of the lowest validation
    loss; or of the highest item-level NDCG@10 of validation users, by beam search as `decoding`
    says with 20 beams at most, averaged over modalities."""
    select_users: Positive = 1000  # of each shop that are decoded for it: a fixed random part
    patience: Positive = 10  # epochs without a better one
    max_minutes: float | None = Field(default=None, gt=0)  # of training, interruptions not counted
    teacher_share: Fraction = 0.0
    """Of a decoder-only model's answers, what EASE^R with codes has (`ease_codes_weight` in
    `evaluation`; 0: EASE^R): items that it would recommend there, fitted on other users' training
    events. For shops of `evaluation.ease_max_items`."""
    teacher_cold_share: Fraction = 0.0
    """Of the teacher's part, what items have that no training history has: the ten of these that it
    ranks best there by their codes, less where there are fewer. Without it hardly anything teaches
    a model to write them."""
    graphs: bool = False
    """On a CUDA device: launch the kernels of a step together, as CUDA graphs. A T5's are compiled
    first, which takes about a minute; a decoder-only model's are not."""
    loss_over: Literal["vocabulary", "level", "children"] = "vocabulary"
    """Among which tokens a target token has its probability: all; or, as with the same value of
    `decoding.normalise`, the codes of its level, or those that items go on with from there, so
    that what the catalog can spell is nothing to learn."""

    @model_validator(mode="after")
    def _cold_share_of_a_teacher(self) -> Self:
        if self.teacher_cold_share and not self.teacher_share:
            raise ValueError(
                "`teacher_cold_share`: expected 0 without a teacher (`teacher_share: 0`), got "
                f"{self.teacher_cold_share}"
            )
        return self

    @property
    def unused(self) -> set[str]:
        """Name the settings that change nothing beside the others."""
        found = {"select_by", "select_users"} if self.select_by == "loss" else set()
        return found if self.teacher_cold_share else {*found, "teacher_cold_share"}


PRETRAIN = TrainingSettings(
    tasks=("seqrec", "seqimage"),
    lr=1e-3,
    schedule="constant",
    warmup=1 / 30,
    batch_size=4096,
    epochs=30,
)


class RecommenderSettings(Record):
    """Room `recommender`: the model and its two trainings."""

    backbone: Literal["t5", "causal"] = "t5"
    """"causal": a decoder-only model that learns a whole history in one pass, in all modalities;
    tasks are not asked, and a code has its probability among those that can follow, whatever
    `loss_over` says. A sample is then a history, or up to `max_his_len` + 1 items of one."""
    d_model: Positive = 128
    d_ff: Positive = 1024
    d_kv: Positive = 64
    num_heads: Positive = 6
    num_layers: Positive = 4
    num_decoder_layers: Positive = 4
    dropout: Fraction = 0.1
    pretrain: TrainingSettings = PRETRAIN
    finetune: TrainingSettings = TrainingSettings()

    @model_validator(mode="before")
    @classmethod
    def _pretrain_like_the_paper(cls, data: Any) -> Any:
        """Let what is not set of `pretrain` be the paper's pre-training, not its fine-tuning."""
        if isinstance(data, dict) and isinstance(data.get("pretrain"), dict):
            return {**data, "pretrain": PRETRAIN.model_dump(exclude_unset=True) | data["pretrain"]}
        return data

    @model_validator(mode="after")
    def _graphs_without_children(self) -> Self:
        for name in ("pretrain", "finetune"):
            training: TrainingSettings = getattr(self, name)
            if self.backbone == "t5" and training.graphs and training.loss_over == "children":
                raise ValueError(
                    f"`{name}.graphs`: expected false for a T5 with `loss_over: children`, whose "
                    "steps cannot be graphs, got true"
                )
        return self


class DecodingSettings(Record):
    """Room `decoding`: beam search constrained by the trie."""

    n_beams: Positive = 50
    """Hypotheses and items kept per user and modality. The paper has 20, which hits as often in one
    modality, but fills only 56 to 94 % of the twenty best items rightly, and fused rankings, which
    need both lists, less well; 50 take 2.0 to 2.5 times as long (`benches/RESULTS.md`)."""
    batch_size: Positive = 64  # users
    normalise: Literal["vocabulary", "level", "children"] = "vocabulary"
    """What a code's probability is among, as `loss_over` of the trainings; always "children" with a
    decoder-only model."""
    exact: bool = False  # search again, with twice the beams, where better items may be left
    graphs: bool = False  # on a CUDA device: launch a batch's kernels together, as a CUDA graph


class RankingFileSettings(Record):
    """A ranking from elsewhere: Parquet as in a run's `evaluation/rankings`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    test: Path  # user_id, rank, item_id, score; made without the users' last events
    validation: Path  # the same, made without their last two


class EvaluationSettings(Record):
    """Room `evaluation`: fusion, baselines, intervals."""

    fusion: Literal["alpha", "authors"] = "alpha"
    alpha: Fraction = 0.5  # weight of the text ranking
    remove_seen: bool = False  # keep items of the history out of all rankings, baselines too
    compare_seen: bool = False
    """Report all rankings with seen items kept and removed; decoding is done twice."""
    combine: tuple[str, ...] = ()
    """Rankings that become one more, "combined": two or more of "text", "image", "popular",
    "item_knn", "ease", "ease_codes", "sasrec" and the names of `files`. Their probabilities are
    averaged with weights that are chosen on the last but one events; with "text" or "image" among
    them, decoding is done for some users' validation histories too."""
    combine_users: Positive = 2000  # whose last but one events the weights are chosen on
    rerank: bool = False
    """One more ranking, "reranked": all items of the lists of `combine`, ranked by gradient-boosted
    trees that are learnt on the same users' same events and see, besides the lists, what item-kNN
    and EASE^R, with and without codes, say of each item; "combined" again, where they add no more
    than chance there. They want more `combine_users`: of 2,000, some 700 have their next item on a
    list, too few to learn from and to be sure of a gain of 3 %."""
    refit: bool = False
    """Fit most popular, item-kNN and EASE^R, with and without codes, on users' last but one events
    too, and count those for what trees see of training, once all weights and trees are chosen,
    before ranking for the last events, none of which is used. Papers do not do so: the baselines'
    own figures are then those of refitted ones, lest a comparison be unfair, and all figures are
    told to be. The recommender and SASRec are not trained again, and rankings of `files` are as
    they are. Four matrices of EASE^R, N x N floats, are held in memory then (and with
    `compare_refit`), otherwise two; half as many with `ease_codes_weight: 0`."""
    compare_refit: bool = False
    """Report all rankings refitted and not. `refit` says which are the main ones."""
    files: tuple[RankingFileSettings, ...] = ()
    n_bootstrap: Positive = 1000
    item_knn_shrink: float = Field(default=50, ge=0)
    ease_lambda: float = Field(default=100, gt=0)
    decay: Fraction = 0.8  # of a history event's weight per later event, item-kNN and EASE^R
    ease_max_items: Positive = 20_000  # EASE^R inverts an N x N matrix
    ease_codes_weight: float | None = Field(default=None, ge=0, le=100)
    """Of EASE^R with codes, "ease_codes": the items of every prefix of codes that several have are
    one more row of the matrix of users and items, with this value where a user's row has ones (so
    that they count as its square of users). None: chosen from 0, 1/4, 1/2, 1 and 2 by NDCG@10;
    fitted on three quarters of the users, EASE^R ranks for every training event of the others,
    which takes as long as fitting it five times. 0: without this ranking, and a teacher without
    codes."""

    @model_validator(mode="after")
    def _lists_that_there_are(self) -> Self:
        given = [file.name for file in self.files]
        if len({*RANKINGS, *given}) < len(RANKINGS) + len(given):
            raise ValueError(
                f"`files`: expected distinct names, none of {list(RANKINGS)}, got {given}"
            )
        known = [name for name in RANKINGS if name not in MADE_OF_OTHERS] + given
        names = self.combine
        if len(names) == 1 or len(set(names)) < len(names) or not set(names) <= set(known):
            raise ValueError(
                f"`combine`: expected none, or two or more of {known}, each once, got {list(names)}"
            )
        if self.rerank and not names:
            raise ValueError(
                "`rerank`: expected, with true, two or more rankings in `combine`, got []; name "
                "those whose items are to be ranked anew, or leave `rerank` out"
            )
        return self


class SasrecSettings(Record):
    """Room `sasrec`: a small self-attentive model on item ids, one more baseline."""

    enabled: bool = True
    max_items: Positive = 50_000  # without it in larger shops: every step scores all items
    d_model: Positive = 64
    num_heads: Positive = 2
    num_layers: Positive = 2
    dropout: Fraction = 0.3
    max_his_len: Positive = 50  # items; longer histories are cut in windows for training
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_size: Positive = 256  # windows
    epochs: Positive = 100
    patience: Positive = 10  # epochs without a better NDCG@10 of validation
    validation_users: int | None = Field(default=20_000, gt=0)  # a fixed random part; None: all
    max_minutes: float | None = Field(default=None, gt=0)  # of training, interruptions not counted

    @model_validator(mode="after")
    def _heads_of_equal_width(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"`d_model`: expected a multiple of `num_heads`, {self.num_heads}, "
                f"got {self.d_model}"
            )
        return self


class ReportSettings(Record):
    """Room `report`: one HTML page."""

    n_users: int = Field(default=6, ge=0)  # examples
    n_points: Positive = 2000  # of each map


class Settings(Record):
    """All settings of a run."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9_\-]+$")
    run_dir: Path | None = None  # None: runs/NAME
    seed: int = Field(default=2025, ge=0, lt=2**32)
    data_seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Of what is drawn before anything is trained: the demo shop, encoders with random weights.
    None: `seed`."""
    runtime: RuntimeSettings = RuntimeSettings()
    catalog: CatalogSettings
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    translator: TranslatorSettings = TranslatorSettings()
    codes: CodesSettings = CodesSettings()
    quality: QualitySettings = QualitySettings()
    language: LanguageSettings = LanguageSettings()
    recommender: RecommenderSettings = RecommenderSettings()
    decoding: DecodingSettings = DecodingSettings()
    sasrec: SasrecSettings = SasrecSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings = ReportSettings()

    @property
    def seed_of_data(self) -> int:
        """Give the seed of what is drawn before anything is trained."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.run_dir or Path("runs") / self.name

    @property
    def target(self) -> DatasetSettings:
        """The shop to fine-tune on and to recommend for."""
        name = self.catalog.target
        found = [shop for shop in self.catalog.datasets if name in (None, shop.name)]
        return found[0]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [shop.name for shop in self.catalog.datasets]
        target, training = self.catalog.target, self.recommender
        faults = []
        if len(set(names)) < len(names):
            faults.append(f"`catalog.datasets`: expected distinct names, got {names}")
        if target is not None and target not in names:
            faults.append(f"`catalog.target`: expected one of {names}, got {target!r}")
        if unknown := [n for n in training.pretrain.datasets if n not in names]:
            faults.append(
                f"`recommender.pretrain.datasets`: expected some of {names}, got {unknown}"
            )
        if self.codes.extend and self.translator.trained is None:
            faults.append(
                "`codes.extend`: expected `translator.trained` with it, the folder of the "
                "translators that made the older codes, got none"
            )
        if training.finetune.datasets:
            faults.append(
                "`recommender.finetune.datasets`: expected none, got "
                f"{list(training.finetune.datasets)}; use `catalog.target`"
            )
        for name in ("pretrain", "finetune"):
            share = getattr(training, name).teacher_cold_share
            if share and self.evaluation.ease_codes_weight == 0:
                faults.append(
                    f"`recommender.{name}.teacher_cold_share`: expected 0 with "
                    f"`evaluation.ease_codes_weight: 0`, got {share}; without codes a teacher "
                    "knows nothing of items without events"
                )
        if faults:
            raise ValueError("\n  ".join(faults))
        return self
