"""YAML as settings need it: bounded, no name that stands twice, and refused without showing what it holds."""

import re
from typing import Any, Final

import yaml

_MOST_NODES: Final = 50_000
"""Values and names of a file, each alias counted as what it stands for."""
_DEEPEST: Final = 20
_MERGE: Final = "tag:yaml.org,2002:merge"


class NotReadable(Exception):
    """The text is refused; the message says why and shows none of it, as it could be a secret."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(problem)
        self.where = where
        """Line and column, where they are known."""


def read_yaml(text: str) -> Any:
    """Read one document. Raises NotReadable."""
    try:
        _refuse_unbounded(text)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown place"
        raise NotReadable(_unquoted(error.problem), where) from None
    except yaml.YAMLError:
        raise NotReadable("characters that no text holds") from None


def _refuse_unbounded(text: str) -> None:
    """Count what the text becomes before it becomes it: an alias of an alias grows without end."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        began = total
        if isinstance(event, yaml.AliasEvent):
            # An alias within what it stands for, or of nothing: the loader names the second.
            if any(anchor == event.anchor for anchor, _ in open_):
                raise _refusal("a value that holds itself", event.start_mark)
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            total += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, began))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, began = open_.pop()
            sizes[anchor or ""] = total - began
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
        if total > _MOST_NODES or len(open_) > _DEEPEST:
            raise _refusal("too large or too deep", event.start_mark)


class _StrictLoader(yaml.SafeLoader):
    """Refuses what other readers take in silence or fail at."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a name that stands twice, where YAML readers keep the last, before merges add more of them."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a name that is no text", key.start_mark)
            if key.value in seen:
                raise _refusal("a name stands twice", key.start_mark)
            seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what `<<` merges: the mapping's own names win, then earlier mappings of a list.

        PyYAML's own way differs from release to release: 6.0.4 lets what was merged first win over a name that the
        merged mapping has itself.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        names = {key.value for key, _ in own}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in (value for key, value in node.value if key.tag == _MERGE):
            for mapping in source.value if isinstance(source, yaml.SequenceNode) else [source]:
                if not isinstance(mapping, yaml.MappingNode):
                    raise _refusal("what is merged is no mapping", source.start_mark)
                self.flatten_mapping(mapping)
                for pair in mapping.value:
                    if pair[0].value not in names:
                        merged.setdefault(pair[0].value, pair)
        node.value = [*merged.values(), *own]
        super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse a date that is none, and whatever else is not what its form or tag says."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise _refusal("a value is not what its form or tag says", node.start_mark) from None


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)


def _unquoted(problem: str | None) -> str:
    return re.sub(r"[\'\"].*", "...", problem or "not readable", flags=re.DOTALL)
