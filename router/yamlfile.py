"""A YAML document with the line of every value, `${NAME}` from the environment, and all problems found.

Rules of this file:
- `${NAME}` is replaced in single scalars after YAML has been parsed, so a variable can never add structure.
- Problems are collected, not raised; only a text that is not YAML ends the reading.
- A message shows the text of the file, never the value of a variable, and nothing in the place of a secret.

Only the functions at the end are specific to endpoints.yaml.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import yaml

KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """All problems of a configuration, one per line: `FILE:LINE: key: the problem, and what is expected`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


# ---- Plain values as in YAML 1.2. In 1.1, which PyYAML follows, `off` is false, `1:30` is 90 and a date is an object.


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as PyYAML declares it)


_TAG = "tag:yaml.org,2002:"
_STR, _MAP, _SEQ, _MERGE = (_TAG + kind for kind in ("str", "map", "seq", "merge"))
# By tag: the pattern, the characters it may begin with, and the conversion.
_PLAIN: Mapping[str, tuple[str, Sequence[str], Callable[[str], Any]]] = {
    _TAG + "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""], lambda _: None),
    _TAG + "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    _TAG + "int": (r"[-+]?[0-9]+", "-+0123456789", int),
    _TAG + "float": (r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789", float),
    _MERGE: (r"<<", "<", str),
}
for _tag, (_pattern, _begins, _) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list(_begins))


def _plain(tag: str, text: str) -> Any:
    """The value of a scalar that is not text. Raises ValueError."""
    if tag not in _PLAIN:
        raise ValueError("has a YAML tag that is not supported")
    try:
        value = _PLAIN[tag][2](text)
    except ValueError:
        value = math.inf
    if isinstance(value, int | float) and not abs(value) < 1e300:
        raise ValueError("not a usable number")
    return value


# ---- The document


_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_MAX_NODES = 100_000  # aliases of aliases can expand to billions


class _UnsetError(ValueError):
    """A variable without a value; the message is a complete clause."""


class Document:
    """`value` is the text's value, None if it could not be read; `unset` maps paths of missing API keys to reasons."""

    def __init__(self, text: str, source: str, environ: Mapping[str, str]) -> None:
        self.source, self._environ = source, environ
        self.unset: dict[KeyPath, str] = {}
        self.problems: list[tuple[int, KeyPath, str]] = []
        self.variables: set[str] = set()  # the names of all references
        self._nodes: dict[KeyPath, tuple[int, yaml.Node | None]] = {(): (1, None)}
        self._size = 0
        self.value: Any = self._load(text)

    # Problems.

    def problem(self, path: KeyPath, message: str, line: int | None = None) -> None:
        """Note a problem, unless one is known at the same path or below it: this one would follow from it."""
        if not any(known[: len(path)] == path for _, known, _ in self.problems):
            self.problems.append((line or self._line(path), path, message))

    def written(self, path: KeyPath) -> str:
        """A scalar as written in the file; empty if it may be a secret or is too long to help."""
        node = self._nodes.get(path, (0, None))[1]
        if not isinstance(node, yaml.ScalarNode) or _is_secret(path) or len(node.value) > 60:
            return ""
        return repr(node.value) if node.tag == _STR else str(node.value)

    def report(self) -> list[str]:
        """The messages, in the order of the file."""
        problems = sorted(self.problems, key=lambda problem: problem[0])
        return [f"{self.source}:{line}: {self._spelled(path)}{message}" for line, path, message in problems]

    def prefixes(self) -> dict[KeyPath, str]:
        """The beginning of a message about each path: file, line and key."""
        return {path: f"{self.source}:{line}: {self._spelled(path)}" for path, (line, _) in self._nodes.items()}

    def literal_secrets(self) -> list[KeyPath]:
        """The paths of secrets that stand in the text itself, not in a variable."""
        return [
            path
            for path, (_, node) in self._nodes.items()
            if isinstance(node, yaml.ScalarNode) and _is_credential(path) and _REFERENCE.sub("", node.value).strip()
        ]

    def _line(self, path: KeyPath) -> int:
        while path not in self._nodes:
            path = path[:-1]
        return self._nodes[path][0]

    def _spelled(self, path: KeyPath) -> str:
        """The path for a message, such as `endpoints[0] (zhipu-flash).probe.interval: `."""
        words = ""
        for depth, part in enumerate(path):
            if isinstance(part, str):
                # `{api_key:sk-…}`, without a space, is one key: the part behind the colon may be a secret.
                shown = part if "models" in path[:depth] else re.sub(r"(?s)[\s:=].*", "…", part)
                words += ("." if words else "") + shown
            else:
                name = self.written((*path[: depth + 1], "name"))
                words += f"[{part}]" + (f" ({name[1:-1]})" if re.fullmatch(r"'[A-Za-z0-9._-]+'", name) else "")
        return words and f"{words}: "

    # Reading.

    def _load(self, text: str) -> Any:
        try:
            root = _Loader(text).get_single_node()
            return None if root is None else self._read(root, (), _line(root))
        except yaml.MarkedYAMLError as error:
            self._not_yaml(*_explained(error, text))
        except yaml.reader.ReaderError as error:
            self._not_yaml(text.count("\n", 0, error.position) + 1, "contains a control character")
        except RecursionError:
            self._not_yaml(1, "nested too deeply, or an anchor that contains itself")

    def _not_yaml(self, line: int, why: str) -> NoReturn:
        # `from None`: PyYAML's own error quotes the line, which may hold secrets.
        raise ConfigError([f"{self.source}:{line}: not valid YAML: {why}"]) from None

    def _read(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self._nodes[path] = (line, node)
        self._count(line)
        match node:
            case yaml.MappingNode(tag=tag) if tag == _MAP:
                return self._mapping(node, path)
            case yaml.SequenceNode(tag=tag) if tag == _SEQ:
                items = enumerate(node.value)
                return [self._read(item, (*path, index), _line(item)) for index, item in items]
            case yaml.ScalarNode():
                return self._scalar(node, path)
        return self.problem(path, "has a YAML tag that is not supported")

    def _count(self, line: int) -> None:
        self._size += 1
        if self._size > _MAX_NODES:
            self._not_yaml(line, "too large after its aliases are expanded")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, tuple[int, yaml.Node]] = {}
        own = _own(node)
        for index, (key_node, value) in enumerate([*own, *self._merged(node, path)]):
            key, line = self._key(key_node, path), _line(key_node)
            if key is not None and key not in entries:
                entries[key] = (line, value)
            elif key is not None and index < len(own):
                self.problem((*path, key), f"duplicate key; first on line {entries[key][0]}", line)
        return {key: self._read(value, (*path, key), line) for key, (line, value) in entries.items()}

    def _merged(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The entries that `<<` merges in. The first of several with the same key counts."""
        for key, value in node.value:
            bases = [] if key.tag != _MERGE else value.value if isinstance(value, yaml.SequenceNode) else [value]
            for base in bases:
                self._count(_line(base))
                if isinstance(base, yaml.MappingNode):
                    yield from _own(base)
                    yield from self._merged(base, path)
                else:
                    self.problem(path, "<< expects a mapping or a list of mappings", _line(base))

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
                return self.problem(path, f"{error}; set it, or write a default: ${{NAME:-default}}")
            self.unset[path] = str(error)
        except ValueError as error:
            self.problem(path, str(error))
        return None

    def _expand(self, text: str) -> str:
        """Replace references by the environment's values. Raises ValueError; _UnsetError if a variable has none."""

        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match[0] == "$${":
                return "${"
            self.variables.add(name)
            if name is None:
                raise ValueError("a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for a literal ${")
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


def _unclosed(text: str) -> yaml.Token | None:
    """The innermost bracket that is open at the end of the text."""
    opened: list[yaml.Token] = []
    try:
        for token in yaml.scan(text, Loader=_Loader):
            if isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken):
                opened.append(token)
            elif opened and isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken):
                opened.pop()
    except yaml.YAMLError:
        return None
    return opened[-1] if opened else None


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """Line and words for an error of PyYAML, with what is most often wrong there."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    words = " ".join(part for part in (error.problem, error.context) if part)
    if error.problem and "'\\t'" in error.problem:
        return (mark.line + 1 if mark else 1), "a tab: YAML is indented with blanks"
    at_the_end = mark is not None and not text[mark.index :].strip()
    if at_the_end and "flow" in words and (opened := _unclosed(text)):
        return opened.start_mark.line + 1, f"the {text[opened.start_mark.index]} on this line is not closed"
    if begun and "quoted scalar" in words:
        return begun.line + 1, "the quote on this line is not closed"
    words = re.sub(r" '[^'<>]{2,}'", "", words)  # quoted text may be a secret
    line = mark.line if mark else 0
    rows = text.splitlines()[line : line + 1]
    if rows and re.search(r"[\[{,:]\s*\$\{", rows[0]):
        words += "; put quotes around ${NAME} inside {…} and […]"
    elif begun and begun.line < line and "flow" in words:
        words += f" that begins on line {begun.line + 1}"
    return line + 1, words


# ---- Specific to endpoints.yaml


def _is_api_key(path: KeyPath) -> bool:
    """True for an endpoint's API key: if it is missing, the endpoint is disabled."""
    return path[:1] == ("endpoints",) and path[2:] == ("api_key",)


def _is_param(path: KeyPath) -> bool:
    """True for a request parameter: its value may be of any type."""
    return path[2:3] == ("params",)


def _is_credential(path: KeyPath) -> bool:
    """True for the value of a key: a client's, an endpoint's, or one in a header."""
    if path[:1] == ("keys",) or _is_api_key(path):
        return True
    name = str(path[3]).lower() if path[2:3] == ("headers",) and len(path) == 4 else ""
    return "auth" in name or "key" in name or "token" in name or "secret" in name or "cookie" in name


def _is_secret(path: KeyPath) -> bool:
    """True for a value that is a secret, or may hold one by mistake, as an address may."""
    return path[:1] == ("keys",) or path[2:3] in (("api_key",), ("headers",), ("base_url",))
