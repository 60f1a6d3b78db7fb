"""YAML that is bounded: how deep, how large written out, every key once, faults with their line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mql4grec.errors import short

MOST_BYTES = 1 << 20  # of a file; ours have some 5,000
DEEPEST = 50
MOST_NODES = 10_000  # with what aliases stand for written out; ours have some 300
LONGEST_NUMBER = 100  # characters; PyYAML takes minutes for 1:1:1:... of a few hundred kB
IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds; one document has one."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, counted as often as it is written out."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before, self._depth = self._n_nodes, self._depth + 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(None, None, f"more than {DEEPEST} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        is_alias = isinstance(event, yaml.AliasEvent)
        self._n_nodes += self._sizes.get(id(node), 1) if is_alias else 1
        self._sizes.setdefault(id(node), self._n_nodes - before)
        if self._n_nodes > MOST_NODES:
            raise yaml.MarkedYAMLError(
                None, None, f"more than {MOST_NODES:,} values", event.start_mark
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping in which no key stands twice.

        Looked at here and not when values are made: merges (`<<`) have been written out by then.
        """
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    problem = f"the key {short(key.value)} twice"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                known.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value; what Python, or no name of a file, can hold is a fault with its line."""
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            problem = f"a number of more than {LONGEST_NUMBER} digits"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError) as err:
            raise yaml.MarkedYAMLError(None, None, str(err), node.start_mark) from err
        if isinstance(value, str) and IMPOSSIBLE.search(value):
            problem = f"a text that nothing can be named after, {short(value)}"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)
        return value


def parse(text: str) -> Any:
    """Read a YAML document.

    Raises:
        yaml.YAMLError: If it is none, or out of bounds.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
