"""The house: a room imports only from rooms before it, and packages stay in their rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "mql4grec"
ROOMS = (
    "errors",
    "signals",
    "config",
    "runtime",
    "artifacts",
    "checkpoints",
    "demo",
    "catalog",
    "embeddings",
    "rqvae",
    "translator",
    "codes",
    "quality",
    "language",
    "recommender",
    "decoding",
    "baselines",
    "sasrec",
    "evaluation",
    "report",
    "stages",
    "pipeline",
    "seeds",
    "serving",
    "cli",
    "__main__",
)
ALLOWED = {  # the only rooms that may import a package
    "polars": {"catalog", "codes", "embeddings", "report"},
    "open_clip": {"embeddings", "demo"},
    "timm": {"embeddings", "demo"},
    "PIL": {"embeddings", "demo"},
    "mql4grec._core": {"codes", "decoding"},
    "typer": {"cli"},
    "lightgbm": {"evaluation"},
}
NO_TORCH = {"errors", "signals", "config", "artifacts", "demo", "catalog", "codes", "baselines",
            "evaluation", "report", "stages", "pipeline", "seeds", "serving", "cli"}  # fmt: skip


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or
            path.parent != PACKAGE]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_modules_to_check() -> None:
    assert len(modules()) >= len(ROOMS)


def test_every_module_has_a_place() -> None:
    found = {room_of(path) for path in modules()}
    assert found == set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_from_rooms_before(path: Path) -> None:
    room = ROOMS.index(room_of(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mql4grec" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= room, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_packages_stay_in_their_rooms(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        for package, rooms in ALLOWED.items():
            if name == package or name.startswith(f"{package}."):
                assert room in rooms, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_numpy_rooms_know_no_torch(path: Path) -> None:
    if room_of(path) in NO_TORCH:
        assert "torch" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if room_of(path) in {"cli", "signals"}:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        assert name not in {"print", "exit", "quit", "sys.exit", "os._exit"}, f"{path.name}: {name}"


@pytest.mark.parametrize("room", ["pipeline", "seeds", "serving"])
def test_what_starts_a_run_imports_torch_only_when_it_has_work(room: str) -> None:
    code = f"import mql4grec.{room}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["translator", "recommender", "decoding.batches", "sasrec"])
def test_rooms_that_train_need_no_polars(room: str) -> None:
    code = (
        f"import mql4grec.{room}, sys; assert 'torch' in sys.modules; "
        "assert 'polars' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
