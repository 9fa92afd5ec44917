"""The settings file as it is written: its YAML values, and the line of each key for messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dicom_io.errors import InvalidSettings
from worker.setting_messages import shown


@dataclass(frozen=True)
class ConfigFile:
    """What a settings file states: its values by their names, and the line, from 1, on which each key stands."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def line_of(self, key: tuple[str | int, ...]) -> int | None:
        """Return the line of a key, or else of the closest one that holds it; None where there is none."""
        return next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), None)


def read_config(path: Path, text: str | None = None) -> ConfigFile:
    """Read a settings file, or its text as it was read before.

    Raises
    ------
    InvalidSettings
        It cannot be read, is empty, is no YAML, or states a key twice; the message names the line.
    """
    text = text_of(path) if text is None else text
    node, values = _parsed(path, text)
    if not text.strip():  # what a full disk leaves of a file that is saved; whoever wants the defaults names no file
        raise InvalidSettings(f"{path}: the file is empty; put it back, or write a setting into it")
    if values is None and node is not None:
        raise InvalidSettings(f"{path}:1: holds nothing; put it back, or write a setting into it")
    if values is None:
        return ConfigFile(path, {}, {})
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InvalidSettings(f"{path}:1: must hold settings, each as 'name: value'")
    _reject_duplicates(node, path)
    return ConfigFile(path, values, dict(_walk(node, ())))


def text_of(path: Path) -> str:
    """Return the text of a settings file. Raises as `read_config`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{path}: not a text file in UTF-8") from error


def _parsed(path: Path, text: str) -> tuple[Any, Any]:
    """Return the tree of a YAML text, and its values. Raises as `read_config`."""
    wrong = f"{path}: not valid YAML"
    try:
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidSettings(f"{path}:{line}: not valid YAML: {_without_quotes(error.problem)}") from error
    except yaml.YAMLError as error:
        raise InvalidSettings(wrong) from error
    except RecursionError as error:
        raise InvalidSettings(f"{wrong}: nested too deeply") from error
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # PyYAML's constructors: a date that does not exist, a number of 5,000 digits, `!!bool maybe`.
        raise InvalidSettings(f"{wrong}: a value is not what its form or its tag says") from error
    if _is_too_much(node):
        raise InvalidSettings(f"{wrong}: its aliases stand for more than {_MOST_NODES} values")
    return node, values


_MOST_NODES = 100_000
"""Values of a settings file with its aliases followed: a few lines of them can stand for billions."""


def _is_too_much(node: yaml.Node | None) -> bool:
    """Tell whether a file's values are too many to be walked through, an alias counted each time."""
    waiting, count = [node], 0
    while waiting and count <= _MOST_NODES:
        each = waiting.pop()
        count += 1
        if isinstance(each, yaml.MappingNode):
            waiting.extend(part for pair in each.value for part in pair)
        elif isinstance(each, yaml.SequenceNode):
            waiting.extend(each.value)
    return count > _MOST_NODES


def _without_quotes(problem: str | None) -> str:
    """Return what is wrong without the words that it quotes: a password that begins with * or ! is one of them."""
    return re.sub(r" ?(?:'[^']{2,}'|\"[^\"]{2,}\")", "", problem or "")


def _walk(node: yaml.Node, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _walk(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _walk(value, (*at, index))


def _reject_duplicates(node: yaml.Node | None, path: Path) -> None:
    """YAML lets the last of two equal keys win in silence; a person who wrote both wants to know."""
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if key.value in names:
                raise InvalidSettings(
                    f"{path}:{key.start_mark.line + 1}: {shown(str(key.value))}: stated twice; remove one"
                )
            names.add(key.value)
            _reject_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _reject_duplicates(value, path)
