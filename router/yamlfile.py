"""A YAML document whose every value remembers its line, with `${NAME}` from the environment; and what is wrong with it.

Rules of this file:
- `${NAME}` is replaced in single scalars after YAML has been parsed, so a variable can never add structure.
- Problems are collected, not raised; only what is not YAML at all ends the reading.
- A message shows what is written in the file, never what a variable stands for, and nothing where a secret belongs.

It is general but for what it knows of endpoints.yaml, at its end.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import yaml

KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """All that is wrong with a configuration, one problem a line: `FILE:LINE: key: what, and what instead`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


# ---- YAML 1.2's plain values: in 1.1, which PyYAML follows, `off` is false, `1:30` is 90 and a date is an object.


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)


_TAG = "tag:yaml.org,2002:"
_STR, _MAP, _SEQ, _MERGE = (_TAG + kind for kind in ("str", "map", "seq", "merge"))
_PLAIN: Mapping[
    str, tuple[str, Sequence[str], Callable[[str], Any]]
] = {  # pattern, what it may begin with, how it is read
    _TAG + "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""], lambda _: None),
    _TAG + "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    _TAG + "int": (r"[-+]?[0-9]+", "-+0123456789", int),
    _TAG + "float": (r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789", float),
    _MERGE: (r"<<", "<", str),
}
for _tag, (_pattern, _begins, _) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list(_begins))


def _plain(tag: str, text: str) -> Any:
    """The value of a scalar that is no text; raises ValueError."""
    if tag not in _PLAIN:
        raise ValueError("has a YAML tag that is not understood here")
    try:
        value = _PLAIN[tag][2](text)
    except ValueError:
        value = math.inf
    if isinstance(value, int | float) and not abs(value) < 1e300:
        raise ValueError("not a number that can be used")
    return value


# ---- The document


_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_MOST_NODES = 100_000  # aliases of aliases can stand for billions


class _UnsetError(ValueError):
    """A variable that has no value; says so as a sentence."""


class Document:
    """`value` is what the text says, None where it could not be read; `unset` the api keys that are not there: why."""

    def __init__(self, text: str, source: str, environ: Mapping[str, str]) -> None:
        self.source, self._environ = source, environ
        self.unset: dict[KeyPath, str] = {}
        self.problems: list[tuple[int, KeyPath, str]] = []
        self._places: dict[KeyPath, tuple[int, yaml.Node | None]] = {(): (1, None)}
        self._size = 0
        self.value: Any = self._load(text)

    # What is wrong, and how that is told.

    def problem(self, path: KeyPath, message: str, line: int | None = None) -> None:
        """Note one, unless it follows from another that was found at the same place or inside it."""
        if not any(known[: len(path)] == path for _, known, _ in self.problems):
            self.problems.append((line or self._line(path), path, message))

    def given(self, path: KeyPath) -> str:
        """A scalar as it stands in the file, or nothing where it may not be shown, or does not help."""
        node = self._places.get(path, (0, None))[1]
        if not isinstance(node, yaml.ScalarNode) or _is_secret(path) or len(node.value) > 60:
            return ""
        return repr(node.value) if node.tag == _STR else str(node.value)

    def report(self) -> list[str]:
        """The problems in the order of the file."""
        problems = sorted(self.problems, key=lambda problem: problem[0])
        return [f"{self.source}:{line}: {self._spelled(path)}{message}" for line, path, message in problems]

    def _line(self, path: KeyPath) -> int:
        while path not in self._places:
            path = path[:-1]
        return self._places[path][0]

    def _spelled(self, path: KeyPath) -> str:
        """`endpoints[0] (zhipu-flash).probe.interval: `"""
        words = ""
        for depth, part in enumerate(path):
            if isinstance(part, str):
                # `{api_key:sk-…}`, without a space, is all one key: what follows the colon is not shown.
                shown = part if "models" in path[:depth] else re.sub(r"(?s)[\s:=].*", "…", part)
                words += ("." if words else "") + shown
            else:
                name = self.given((*path[: depth + 1], "name"))
                words += f"[{part}]" + (f" ({name[1:-1]})" if re.fullmatch(r"'[A-Za-z0-9._-]+'", name) else "")
        return words and f"{words}: "

    # Reading.

    def _load(self, text: str) -> Any:
        try:
            root = _Loader(text).get_single_node()
            return None if root is None else self._read(root, (), _line(root))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = " ".join(part for part in (error.problem, error.context) if part)
            self._not_yaml(mark.line + 1 if mark else 1, re.sub(r" '[^'<>]{2,}'", "", words))  # might be secrets
        except yaml.reader.ReaderError as error:
            self._not_yaml(text.count("\n", 0, error.position) + 1, "a control character")
        except RecursionError:
            self._not_yaml(1, "nested too deeply, or an anchor inside itself")

    def _not_yaml(self, line: int, why: str) -> NoReturn:
        # from None: PyYAML's own error quotes the line, secrets and all.
        raise ConfigError([f"{self.source}:{line}: not valid YAML: {why}"]) from None

    def _read(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self._places[path] = (line, node)
        self._count(line)
        match node:
            case yaml.MappingNode(tag=tag) if tag == _MAP:
                return self._mapping(node, path)
            case yaml.SequenceNode(tag=tag) if tag == _SEQ:
                items = enumerate(node.value)
                return [self._read(item, (*path, index), _line(item)) for index, item in items]
            case yaml.ScalarNode():
                return self._scalar(node, path)
        return self.problem(path, "has a YAML tag that is not understood here")

    def _count(self, line: int) -> None:
        self._size += 1
        if self._size > _MOST_NODES:
            self._not_yaml(line, "too large, with its aliases followed")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, tuple[int, yaml.Node]] = {}
        own = _own(node)
        for index, (key_node, value) in enumerate([*own, *self._merged(node, path)]):
            key, line = self._key(key_node, path), _line(key_node)
            if key is not None and key not in entries:
                entries[key] = (line, value)
            elif key is not None and index < len(own):
                self.problem((*path, key), f"stands twice; first on line {entries[key][0]}", line)
        return {key: self._read(value, (*path, key), line) for key, (line, value) in entries.items()}

    def _merged(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """What `<<` brings; what comes first counts."""
        for key, value in node.value:
            bases = [] if key.tag != _MERGE else value.value if isinstance(value, yaml.SequenceNode) else [value]
            for base in bases:
                self._count(_line(base))
                if isinstance(base, yaml.MappingNode):
                    yield from _own(base)
                    yield from self._merged(base, path)
                else:
                    self.problem(path, "<< takes a mapping, or a list of them", _line(base))

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        try:
            if node.tag == _STR:
                return self._expand(node.value)
            why = "is not text; put it in quotes"
        except ValueError as error:
            why = f"cannot be read: {error}"
        self.problem(path, f"has a key that {why}", _line(node))
        return None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            if node.tag != _STR:
                return _plain(node.tag, node.value)
            text = self._expand(node.value)
            if _is_param(path) and node.style is None and _REFERENCE.fullmatch(node.value):
                tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
                return text if tag == _STR else _plain(tag, text)
            return text
        except _UnsetError as error:
            if not _is_api_key(path):
                return self.problem(path, f"{error}; set it, or give it a default: ${{NAME:-default}}")
            self.unset[path] = str(error)
        except ValueError as error:
            self.problem(path, str(error))
        return None

    def _expand(self, text: str) -> str:
        """With the environment's values; raises ValueError, of which _UnsetError is one."""

        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match[0] == "$${":
                return "${"
            if name is None:
                raise ValueError("a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for a plain ${")
            found = self._environ.get(name)
            if default is not None:
                return found or default
            if found is None or not found.strip():
                raise _UnsetError(f"{name} is {'not set' if found is None else 'empty'}")
            return found

        return _REFERENCE.sub(value, text)


def _own(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    return [pair for pair in node.value if pair[0].tag != _MERGE]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# ---- What it knows of endpoints.yaml


def _is_api_key(path: KeyPath) -> bool:
    """It may be missing, and then its endpoint is disabled."""
    return path[:1] == ("endpoints",) and path[2:] == ("api_key",)


def _is_param(path: KeyPath) -> bool:
    """It may be of any type."""
    return path[2:3] == ("params",)


def _is_secret(path: KeyPath) -> bool:
    """Or may hold one by mistake, as an address does."""
    return path[:1] == ("keys",) or path[2:3] in (("api_key",), ("headers",), ("base_url",))
