"""YAML read with the line of every key, and with the numbers people mean.

PyYAML follows YAML 1.1, which reads `1e-3` as a string, `no` as false and `010` as eight. Here a plain scalar is
what YAML 1.2 says: `1e-3` is a number, only `true` and `false` are booleans, and a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from codir.errors import ConfigError

KeyPath = tuple[str, ...]

_TAG = "tag:yaml.org,2002:"
_DIGITS = 400  # Python reads no whole number of more than 4,300, and a float is infinite before that
_FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.nan$")
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:~|null|Null|NULL|)$"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]+$"), int),
    (_FLOAT, lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan"))),
)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either reading of YAML would not take for a string, so that others read our files too."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


# PyYAML's own resolvers stay; the floats that only YAML 1.2 knows are added.
_Dumper.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


def read_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    """Reads one YAML document, which messages call `name`.

    Returns:
        The value, and for each key path where it stands (`my.yaml, line 4`).

    Raises:
        ConfigError: with the line, if the text is no YAML, has a key twice or an alias that contains itself.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{name}{line}: not valid YAML: {problem}") from error
    places: dict[KeyPath, str] = {}
    value = None if node is None else _build(node, (), name, places, ())
    return value, places


def read_yaml_file(path: str | Path) -> tuple[Any, dict[KeyPath, str]]:
    """Reads a YAML file as `read_yaml` does; a file that cannot be read raises `ConfigError` too."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror or error}") from error
    return read_yaml(text, str(path))


def read_value(text: str) -> Any:
    """Reads the value of `--set key=value`; text that is no YAML stays text."""
    try:
        return read_yaml(text, "--set")[0]
    except ConfigError:
        return text


def dump_yaml(value: Any) -> str:
    """Writes plain Python values as YAML that `read_yaml` reads back to the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _build(node: yaml.Node, path: KeyPath, name: str, places: dict[KeyPath, str], above: tuple[yaml.Node, ...]) -> Any:
    line = f"{name}, line {node.start_mark.line + 1}"
    places.setdefault(path, line)
    if node in above:
        raise ConfigError(f"{line}: an alias contains itself")
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_build(item, (*path, str(index)), name, places, above) for index, item in items]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, line)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = f"{name}, line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{line}: a key must be a word, not a list or a section")
        key = str(key_node.value)
        if key in result:
            raise ConfigError(f"{line}: the key {key!r} stands here a second time; remove one of the two")
        places[(*path, key)] = line
        result[key] = _build(value_node, (*path, key), name, places, above)
    return result


def _scalar(node: yaml.Node, line: str) -> Any:
    text = str(node.value)
    if node.tag.startswith("!") or node.tag.startswith(f"{_TAG}python"):
        raise ConfigError(f"{line}: the tag {node.tag!r} is not allowed; write a plain value")
    # in quotes: text, whatever it looks like
    if isinstance(node, yaml.ScalarNode) and node.style is not None:
        return text
    convert = next((convert for pattern, convert in _SCALARS if pattern.match(text)), str)
    if convert is int and len(text) > _DIGITS:
        raise ConfigError(f"{line}: a number of {len(text):,} digits is no setting of codir's")
    return convert(text)
