"""Settings: read, overridden, refused with all faults at once."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mql4grec import config
from mql4grec.config import RecommenderSettings
from mql4grec.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").rglob("*.yaml"))
SHOP = "catalog: {datasets: [{name: A, format: demo}, {name: B, format: demo}]}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_settings_are_read_and_written_back(path: Path, tmp_path: Path) -> None:
    settings = config.load(path)
    assert config.load(written(tmp_path, config.dump(settings))) == settings


def test_the_default_is_the_demo_in_configs() -> None:
    assert config.demo_config().read_text() == (CONFIGS[0].parent / "demo.yaml").read_text()


def test_overrides_reach_records_lists_and_values(tmp_path: Path) -> None:
    path = written(tmp_path, SHOP)
    overrides = [
        "translator.num_emb_list=[16, 16]",
        "translator.sk_epsilons=[0, 0]",
        "catalog.datasets.1.n_items=7",
        "recommender.finetune.lr=0.5",
    ]
    settings = config.load(path, overrides=overrides)
    assert settings.translator.num_emb_list == (16, 16)
    assert settings.catalog.datasets[1].n_items == 7
    assert settings.recommender.finetune.lr == 0.5


def test_all_faults_are_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = written(tmp_path, SHOP)
    overrides = ["translator.epoch=3", "recommender.finetune.lr=-1", "catalog.datasets.0.formt=x"]
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides=overrides)
    assert str(caught.value) == (
        f"`{path}`: 3 wrong setting(s)\n"
        "  `catalog.datasets.0.formt`: unknown setting; did you mean `format`?\n"
        "  `translator.epoch`: unknown setting; did you mean `epochs`?\n"
        "  `recommender.finetune.lr`: input should be greater than 0, got -1"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "`--set seed`: expected room.key=value, got no `=`"),
        ("catalog.datasets.9.name=x", "expected a number from 0 to 1, got '9'"),
        ("catalog.target=Q", "`catalog.target`: expected one of ['A', 'B'], got 'Q'"),
        ("catalog.datasets.1.name=A", "expected distinct names, got ['A', 'A']"),
        ("recommender.pretrain.datasets=[C]", "expected some of ['A', 'B'], got ['C']"),
        (
            "recommender.finetune.teacher_cold_share=0.1",
            "`teacher_cold_share`: expected 0 without a teacher (`teacher_share: 0`), got 0.1",
        ),
        ("seed=[", "expected a YAML value, got '['"),
        ("name.deep=1", "`name` is 'x', which has no parts"),
    ],
)
def test_faults_say_what_was_expected(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(written(tmp_path, SHOP + "name: x\n"), overrides=[override])
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        config.load(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*No such file"):
        config.load(tmp_path / "nowhere.yaml")


def test_pretraining_is_the_papers_where_it_is_not_set(tmp_path: Path) -> None:
    path = written(tmp_path, SHOP)
    overrides = ["recommender.pretrain.datasets=[A]", "recommender.pretrain.lr=0.1"]
    found = config.load(path, overrides=overrides).recommender.pretrain
    assert (found.lr, found.epochs, found.batch_size, found.schedule) == (0.1, 30, 4096, "constant")
    assert found.tasks == ("seqrec", "seqimage")


@pytest.mark.parametrize("training", ["pretrain", "finetune"])
def test_a_teacher_of_cold_items_needs_their_codes(tmp_path: Path, training: str) -> None:
    taught = [f"recommender.{training}.teacher_{name}=0.1" for name in ("share", "cold_share")]
    overrides = [*taught, "evaluation.ease_codes_weight=0"]
    message = rf"{training}.teacher_cold_share`: expected 0 with `evaluation.ease_codes_weight: 0`"
    with pytest.raises(ConfigError, match=message):
        config.load(written(tmp_path, SHOP), overrides=overrides)
    config.load(written(tmp_path, SHOP), overrides=taught)


def test_faults_between_settings_are_told_together(tmp_path: Path) -> None:
    overrides = ["catalog.target=Q", "recommender.finetune.datasets=[A]"]
    with pytest.raises(ConfigError) as caught:
        config.load(written(tmp_path, SHOP), overrides=overrides)
    assert "`catalog.target`: expected one of ['A', 'B'], got 'Q'" in str(caught.value)
    assert "`recommender.finetune.datasets`: expected none, got ['A']" in str(caught.value)


def test_faulty_overrides_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`--set a`.*\n`--set b`"):
        config.load(written(tmp_path, SHOP), overrides=["a", "b"])


def test_the_target_is_the_first_shop_unless_named(tmp_path: Path) -> None:
    path = written(tmp_path, SHOP)
    assert config.load(path).target.name == "A"
    assert config.load(path, overrides=["catalog.target=B"]).target.name == "B"


def test_a_t5s_steps_over_children_are_no_graphs() -> None:
    with pytest.raises(ValidationError) as caught:
        RecommenderSettings(finetune={"graphs": True, "loss_over": "children"})
    assert (
        "`finetune.graphs`: expected false for a T5 with `loss_over: children`, whose steps cannot "
        "be graphs, got true" in str(caught.value)
    )
    free = RecommenderSettings(
        backbone="causal", finetune={"graphs": True, "loss_over": "children"}
    )
    assert free.finetune.graphs
