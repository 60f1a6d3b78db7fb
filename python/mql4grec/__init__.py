"""Multimodal generative recommendation, from pictures, texts and histories to ranked items.

The public rooms are modules: `mql4grec.catalog`, `mql4grec.embeddings`, and so on, imported when
first used, so that `import mql4grec` costs nothing.
"""

from importlib import import_module
from types import ModuleType

__all__ = [
    "baselines",
    "catalog",
    "codes",
    "config",
    "decoding",
    "embeddings",
    "evaluation",
    "language",
    "pipeline",
    "recommender",
    "report",
    "rqvae",
    "serving",
    "translator",
]


def __getattr__(name: str) -> ModuleType | str:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module `{__name__}` has no attribute {name!r}")
