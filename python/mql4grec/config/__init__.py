"""Typed settings, one record per room.

This room knows names, types, units and defaults of every setting, and how they are read. It does
not know what they are used for.
"""

from mql4grec.config.loading import demo_config, dump, load
from mql4grec.config.records import (
    MODALITIES,
    PAPER_TASKS,
    CatalogSettings,
    CodesSettings,
    DatasetSettings,
    DecodingSettings,
    EmbeddingsSettings,
    EvaluationSettings,
    FaultPolicy,
    ImageEncoderSettings,
    LanguageSettings,
    Modality,
    QualitySettings,
    RecommenderSettings,
    ReportSettings,
    RuntimeSettings,
    SasrecSettings,
    Settings,
    Task,
    TextEncoderSettings,
    TrainingSettings,
    TranslatorSettings,
)

__all__ = [
    "MODALITIES",
    "PAPER_TASKS",
    "CatalogSettings",
    "CodesSettings",
    "DatasetSettings",
    "DecodingSettings",
    "EmbeddingsSettings",
    "EvaluationSettings",
    "FaultPolicy",
    "ImageEncoderSettings",
    "LanguageSettings",
    "Modality",
    "QualitySettings",
    "RecommenderSettings",
    "ReportSettings",
    "RuntimeSettings",
    "SasrecSettings",
    "Settings",
    "Task",
    "TextEncoderSettings",
    "TrainingSettings",
    "TranslatorSettings",
    "demo_config",
    "dump",
    "load",
]
