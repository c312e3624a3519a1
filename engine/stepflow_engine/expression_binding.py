"""Binding: an expression whose paths into its variables are variables of their own, and the cost of evaluating it.

CEL resolves the path ``event.data.owner`` again for each element of a macro, and copies the whole event each time. A
bound expression reads each path once. What an event can still make expensive, such as a long list that is compared with
a long list, is estimated before the expression is evaluated.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepflow_engine.errors import ConfigurationError

__all__ = ["Binding", "bind", "nested_macro"]

_TOKEN = re.compile(
    r"""
    (?P<skipped> \s+ | //[^\n]* )
    | (?P<text>
        (?: [bB]?[rR] | [rR][bB] ) (?: \"{3}.*?\"{3} | \'{3}.*?\'{3} | "[^"]*" | '[^']*' )
        | [bB]? (?: \"{3}(?:\\.|[^\\])*?\"{3} | \'{3}(?:\\.|[^\\])*?\'{3} | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
      )
    | (?P<number> \d[\w.]* )
    | (?P<word> \w+ )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_KEY = re.compile(r"""(["'])[^\\"']*\1""")
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
"""The macros that evaluate an expression for each element of a list."""
_COPYING = frozenset({"filter", "map"})
"""The macros that copy their result for each element."""
_RESERVED = frozenset(
    {
        "true", "false", "null", "in",
        "bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "optional", "string", "type", "uint",
    }
)  # fmt: skip
"""Words that are not variables: literals, an operator, and the names of types."""
_NAMED_VALUES = frozenset({"true", "false", "null"})
_EXPENSIVE = re.compile(r"\\[wWdDsSpPbB]")
_REPEATED = re.compile(r"\{(?:\d*,)?(\d+),?\}")
_FIELDS = ("name", "data", "id", "ts")
_CHEAP_SUMS = 8
_CONSTANT_BYTES = 16
"""The work of reading a value that is written in the expression, as bytes that could be read in that time."""

Path = tuple[str, ...]
_MISSING = object()


@dataclass(slots=True)
class _Body:
    """What stands inside the parentheses of a macro, or outside of all macros.

    Attributes:
        macro: the word; ``""``: outside of macros.
        element: the variable of the macro.
        reads: the bound variables, once for each place.
        elements: the number of places that read the element.
        sums: the number of ``+``, each of which copies its operands.
        constants: the work of its values that are written in the expression, in bytes.
        depth: the number of brackets that are open around it.
    """

    macro: str = ""
    element: str = ""
    reads: list[str] = field(default_factory=list)
    elements: int = 0
    sums: int = 0
    constants: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """A bound expression.

    Attributes:
        text: the source, with a variable in place of each path.
        paths: the path of each variable.
        tests: for each variable in place of ``has(path)``, the path.
        outside: what stands outside of macros.
        macros: the bodies of the macros, in order.
        shortest: the length that lists written in the expression may have.
    """

    text: str
    paths: Mapping[str, Path]
    tests: Mapping[str, Path]
    outside: _Body
    macros: tuple[_Body, ...]
    shortest: int

    def variables(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the bound variables. A variable whose path does not exist is left out."""
        values = {name: value for name, path in self.paths.items() if (value := _at(inputs, path)) is not _MISSING}
        for name, path in self.tests.items():
            parent = _at(inputs, path[:-1])
            if isinstance(parent, dict):
                values[name] = path[-1] in parent
        return values

    def cost(self, variables: Mapping[str, Any]) -> int:
        """An upper bound of the work of one evaluation, in bytes to read or copy; 0: it is always small."""
        if not self.macros and self.outside.sums <= _CHEAP_SUMS:
            return 0
        measured = {name: _measure(value) for name, value in variables.items()}
        sizes = {name: size for name, (size, _) in measured.items()}
        longest = max((length for _, length in measured.values()), default=0) + self.shortest
        longest *= self.outside.sums + 1
        cost = (self.outside.sums + 1) * sum(sizes.get(name, 0) for name in self.outside.reads)
        elements = (self.outside.sums + 1) * sum(sizes.values())
        for macro in self.macros:
            read = longest * sum(sizes.get(name, 0) for name in macro.reads) + macro.elements * elements
            cost += (macro.sums + 1) * read + elements + longest * macro.constants
            if macro.macro == "map":
                elements = (macro.sums + 1) * read
            if macro.macro in _COPYING:
                cost += longest * elements // 2
        return cost


def _pattern_cost(pattern: str) -> int:
    """About the work to compile a pattern, in bytes. A class of Unicode characters makes most of it.

    A repetition with a count compiles what it repeats as often. Which part that is does not matter for the estimate.
    """
    counts = [int(count) for count in _REPEATED.findall(pattern) if count]
    classes = len(_EXPENSIVE.findall(pattern)) + (len(pattern) if "(?" in pattern or not pattern.isascii() else 0)
    each = 80_000 * classes + 2_000 * pattern.count(".") + 100 * len(pattern)
    return 6_000 + each * math.prod([max(1, count) for count in counts])


def _at(inputs: Mapping[str, Any], path: Path) -> Any:
    value: Any = inputs
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _measure(value: Any) -> tuple[int, int]:
    """About the size of a value in bytes, and the length of the longest list or object in it."""
    size, longest, rest = 0, 0, [value]
    while rest:
        one = rest.pop()
        size += 8
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, dict):
            longest = max(longest, len(one))
            size += sum(map(len, one))
            rest.extend(one.values())
        elif isinstance(one, list):
            longest = max(longest, len(one))
            rest.extend(one)
    return size, longest


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


_END = _Token("end", "", 0, 0)


def _tokens(text: str) -> list[_Token]:
    tokens = (_Token(one.lastgroup or "", one[0], *one.span()) for one in _TOKEN.finditer(text))
    return [token for token in tokens if token.kind != "skipped"]


def nested_macro(text: str) -> str | None:
    """The first macro inside the parentheses of another macro; ``None``: there is none."""
    open_: list[bool] = []  # for each open bracket, whether it belongs to a macro
    before = ""
    for token in _tokens(text):
        word = token.text
        if word in ("(", "[", "{"):
            is_macro = word == "(" and before in _MACROS
            if is_macro and any(open_):
                return before
            open_.append(is_macro)
        elif word in (")", "]", "}") and open_:
            open_.pop()
        before = word
    return None


def bind(text: str, roots: Collection[str]) -> Binding:
    """Bind an expression without nested macros.

    Args:
        roots: the variables that the expression may use: ``event`` and ``run``.

    Raises:
        ConfigurationError: it uses a name that does not exist, so it would never have a value.
    """
    return _Binder(text, roots).bind()


class _Binder:
    """Reads the tokens of one expression from left to right."""

    def __init__(self, text: str, roots: Collection[str]) -> None:
        self._text, self._roots = text, roots
        self._tokens = _tokens(text)
        self._names = _unused_names(text)
        self._paths: dict[Path, str] = {}
        self._tests: dict[Path, str] = {}
        self._outside, self._macros = _Body(), list[_Body]()
        self._body = self._outside
        self._depth = 0
        self._replaced: list[tuple[int, int, str]] = []

    def bind(self) -> Binding:
        at = 0
        while at < len(self._tokens):
            at = self._read(at)
        return Binding(
            self._bound_text(),
            {name: path for path, name in self._paths.items()},
            {name: path for path, name in self._tests.items()},
            self._outside,
            tuple(self._macros),
            sum(token.text == "," for token in self._tokens) + 1,
        )

    def _read(self, at: int) -> int:
        """Read what begins at a token; returns the index of the next one to read."""
        token, before, after = self._token(at), self._token(at - 1).text, self._token(at + 1).text
        match token.text:
            case "(" | "[" | "{":
                self._depth += 1
            case ")" | "]" | "}":
                self._depth -= 1
                if self._body.macro and self._depth < self._body.depth:
                    self._body = self._outside
            case "+":
                self._body.sums += 1
        if token.kind in ("text", "number") or token.text in _NAMED_VALUES:
            self._body.constants += _CONSTANT_BYTES + len(token.text)
        if token.kind != "word":
            return at + 1
        if before == "." and token.text == "matches" and after == "(":
            self._body.constants += _pattern_cost(self._pattern(at + 2))
        if before == ".":
            return self._open_macro(at) if token.text in _MACROS and after == "(" else at + 1
        if token.text == self._body.element:
            self._body.elements += 1
            return at + 1
        if token.text == "has" and after == "(" and (following := self._read_test(at)):
            return following
        if token.text in self._roots:
            return self._read_path(at)
        if after != "(" and token.text not in _RESERVED:
            raise ConfigurationError(self._unknown(token.text))
        return at + 1

    def _token(self, at: int) -> _Token:
        return self._tokens[at] if 0 <= at < len(self._tokens) else _END

    def _pattern(self, at: int) -> str:
        """The pattern that begins at a token. It is compiled for each evaluation, so an event must not provide it."""
        token = self._token(at)
        if token.kind != "text" or self._token(at + 1).text != ")":
            raise ConfigurationError(
                f"expression {self._text!r}: the pattern of 'matches' must be one text, written in the expression, "
                "as in event.data.email.matches('@example[.]com$')"
            )
        return token.text

    def _open_macro(self, at: int) -> int:
        element = self._token(at + 2)
        if element.kind != "word" or self._token(at + 3).text != ",":
            return at + 1
        if element.text in self._roots:
            raise ConfigurationError(
                f"expression {self._text!r} must not use {element.text!r} as the variable of a macro: rename it"
            )
        self._depth += 1
        self._body = _Body(self._token(at).text, element.text, depth=self._depth)
        self._macros.append(self._body)
        return at + 4

    def _read_test(self, at: int) -> int:
        """Bind ``has(path)``; 0: its argument is not a path."""
        if self._token(at + 2).text not in self._roots:
            return 0
        path, following = self._path(at + 2)
        if self._token(following).text != ")" or len(path) == 1:
            return 0
        self._replace(at, following, self._tests, path)
        return following + 1

    def _read_path(self, at: int) -> int:
        path, following = self._path(at)
        self._replace(at, following - 1, self._paths, path)
        self._body.reads.append(self._paths[path])
        return following

    def _replace(self, first: int, last: int, names: dict[Path, str], path: Path) -> None:
        if path not in names:
            names[path] = next(self._names)
        self._replaced.append((self._token(first).start, self._token(last).end, names[path]))

    def _path(self, at: int) -> tuple[Path, int]:
        """The longest path that begins at a token, and the index of the token after it."""
        path, at = [self._token(at).text], at + 1
        while True:
            sign, name, end = self._token(at).text, self._token(at + 1), self._token(at + 2).text
            if sign == "." and name.kind == "word" and end != "(":
                path.append(name.text)
                at += 2
            elif sign == "[" and name.kind == "text" and end == "]" and _KEY.fullmatch(name.text):
                path.append(name.text[1:-1])
                at += 3
            else:
                self._check(path)
                return tuple(path), at

    def _check(self, path: list[str]) -> None:
        """Refuse a path that no event has."""
        if path[0] == "run" and len(path) > 1 and path[1] != "event":
            raise ConfigurationError(f"expression {self._text!r}: run has no {path[1]!r}, only run.event")
        of_event = path[1:] if path[0] == "run" else path
        if len(of_event) > 1 and of_event[1] not in _FIELDS:
            raise ConfigurationError(
                f"expression {self._text!r}: an event has no {of_event[1]!r}, only {', '.join(_FIELDS)}: "
                f"write event.data.{of_event[1]} for a value in its data"
            )

    def _unknown(self, name: str) -> str:
        hint = f"write event.data.{name} for a value in the data of the event"
        if name in _FIELDS:
            hint = f"write event.{name}"
        elif name == "run":
            hint = "only conditions of waits and of cancel_on can use run.event"
        return f"expression {self._text!r} uses {name!r}, which does not exist: {hint}"

    def _bound_text(self) -> str:
        parts, at = list[str](), 0
        for start, end, name in self._replaced:
            parts += (self._text[at:start], f" {name} ")
            at = end
        return "".join((*parts, self._text[at:]))


def _unused_names(text: str) -> Iterator[str]:
    """Names of variables that do not occur in a text."""
    prefix = "v"
    while prefix in text:
        prefix += "_"
    return (f"{prefix}{number}" for number in itertools.count())
