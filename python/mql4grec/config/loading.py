"""How settings are read: a YAML file, then `--set room.key=value`; all faults told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mql4grec.config.documents import MOST_BYTES, parse
from mql4grec.config.records import Settings
from mql4grec.errors import ConfigError, short, short_text

MOST_TOLD = 50  # faults of settings


def demo_config() -> Path:
    """Give the settings file of the embedded demo shop, the default of the command line."""
    return Path(__file__).parents[1] / "demo.yaml"


def load(path: Path, *, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a YAML file, then apply overrides.

    Args:
        path: The YAML file; a mapping of rooms.
        overrides: `room.key=value` each, the value in YAML; list items by number.

    Raises:
        ConfigError: With all faults together, unknown keys with the nearest name.
    """
    try:
        tree = parse(_read(path))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"`{path}`: expected a YAML file, got {str(err)[:200]}") from err
    except (yaml.YAMLError, RecursionError) as err:
        raise ConfigError(f"`{path}`: expected YAML, got {_in_line(err)}") from err
    if not isinstance(tree, dict):
        raise ConfigError(f"`{path}`: expected a mapping of rooms, got {type(tree).__name__}")
    faults = []
    for override in overrides:
        try:
            _override(tree, override)
        except ConfigError as err:
            faults.append(str(err))
    if faults:
        raise ConfigError("\n".join(faults))
    try:
        return Settings.model_validate(tree)
    except ValidationError as err:
        raise ConfigError(_explain(err, path)) from err


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"`{path}`: expected settings of at most {MOST_BYTES:,} bytes, got more; is it the "
            "right file?"
        )
    return content.decode()


def _in_line(error: Exception) -> str:
    """Tell a fault of YAML with its line, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    told = " ".join(str(problem or error).split())[:200]
    return told if mark is None else f"in line {mark.line + 1}: {told}"


def dump(settings: Settings) -> str:
    """Write settings as YAML that `load` reads back.

    Defaults are written out, but not those of shops: a column that is named must be there, and each
    format has defaults of its own.
    """
    tree = settings.model_dump(mode="json")
    tree["catalog"]["datasets"] = [
        shop.model_dump(mode="json", exclude_unset=True) for shop in settings.catalog.datasets
    ]
    return yaml.safe_dump(tree, sort_keys=False)


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `room.key=value` in the tree of a YAML file."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"`--set {short_text(override)}`: expected room.key=value, got no `=`")
    *parents, last = name.split(".")
    node: Any = tree
    for key in parents:
        if isinstance(node, list):
            node = node[_place(node, key, override)]
        elif isinstance(node, dict):
            node[key] = {} if node.get(key) is None else node[key]
            node = node[key]
        if not isinstance(node, dict | list):
            raise ConfigError(
                f"`--set {short_text(override)}`: `{key}` is {short(node)}, which has no parts"
            )
    try:
        parsed = parse(value)
    except (yaml.YAMLError, RecursionError) as err:
        raise ConfigError(
            f"`--set {short_text(override)}`: expected a YAML value, got {short(value)}, "
            f"{_in_line(err)}"
        ) from err
    if isinstance(node, list):
        node[_place(node, last, override)] = parsed
    else:
        node[last] = parsed


def _place(node: list[Any], key: str, override: str) -> int:
    if key in map(str, range(len(node))):
        return int(key)
    raise ConfigError(
        f"`--set {short_text(override)}`: expected a number from 0 to {len(node) - 1}, got "
        f"{short(key)}"
    )


def _explain(error: ValidationError, path: Path) -> str:
    """Say what is wrong with every setting, one line each."""
    faults = error.errors()
    # A fault inside a list also makes the list too short; only the inner one helps.
    outer = {fault["loc"][:n] for fault in faults for n in range(1, len(fault["loc"]))}
    inner = [fault for fault in faults if fault["loc"] not in outer]
    lines = [
        _explain_one(fault["loc"], fault["type"], fault["msg"], fault.get("input"))
        for fault in inner[:MOST_TOLD]
    ]
    if len(inner) > MOST_TOLD:
        lines.append(f"and {len(inner) - MOST_TOLD:,} more")
    return f"`{path}`: {len(inner)} wrong setting(s)\n" + "\n".join(f"  {line}" for line in lines)


def _explain_one(place: Sequence[int | str], kind: str, message: str, value: Any) -> str:
    name = ".".join(short_text(str(part)) for part in place)
    if kind == "extra_forbidden":
        known = _known_keys(place[:-1])
        near = difflib.get_close_matches(str(place[-1])[:80], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(known))}"
        return f"`{name}`: unknown setting; {hint}"
    if kind == "missing":
        return f"`{name}`: expected a value, got none"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"`{name}`: {message[0].lower()}{message[1:]}, got {short(value)}"


def _known_keys(parents: Iterable[int | str]) -> set[str]:
    """Give the keys of the record at a place of the tree."""
    record: type[BaseModel] = Settings
    for part in parents:
        if isinstance(part, str):
            annotation = record.model_fields[part].annotation
            inner = get_args(annotation)[:1] or (annotation,)
            record = inner[0]
    return set(record.model_fields)
