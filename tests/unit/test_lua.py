"""Every script begins with its contract, and keeps to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from stepflow_broker.protocol.command import run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_broker.protocol.status import ScriptStatus

FOLDER = Path(str(files("stepflow_broker"))) / "lua"
PATHS = {path.stem: path for path in FOLDER.glob("*/*.lua") if path.parent.name != "lib"}
LIBRARIES = {path.stem: path.read_text() for path in (FOLDER / "lib").glob("*.lua")}
SCRIPTS = script_names()
_FIELDS = ("USES", "KEYS", "ARGV", "RIGHTS", "MOVES", "RETURNS")


@dataclass(frozen=True, slots=True)
class Header:
    """The contract of a script, as its comment states it."""

    name: str
    sentence: str
    fields: dict[str, str]
    order: list[str]
    body: str

    def numbered(self, field: str) -> dict[int, str]:
        """Numbers and names, as in ``1 now_ms  2 run``."""
        return {
            int(number): name
            for number, name in re.findall(r"(\d+)(?:\.\.)? +([^\d].*?)(?=  \d|$)", self.fields[field])
        }


def header(name: str) -> Header:
    lines = PATHS[name].read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith("--"):
            break
        comment.append(line)
    found = re.fullmatch(r"-- (\w+): (.+)", comment[0])
    assert found, f"the first line of {name} is not '-- name: sentence.': {comment[0]}"
    fields: dict[str, str] = {}
    order: list[str] = []
    for line in comment[1:]:
        field = re.match(r"-- ([A-Z]{4,}) +(.*)", line)
        if field:
            order.append(field[1])
            fields[field[1]] = field[2]
        elif order:
            fields[order[-1]] += "  " + line.removeprefix("--").strip()
    return Header(found[1], found[2], fields, order, "\n".join(lines[len(comment) :]))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_first_line_names_the_script_and_says_what_it_does(name: str) -> None:
    found = header(name)
    assert found.name == name
    assert found.sentence[0].islower()
    assert found.sentence.endswith(".")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_fields_are_known_and_in_order(name: str) -> None:
    found = header(name)
    assert found.order == [field for field in _FIELDS if field in found.fields]
    assert {"KEYS", "ARGV", "MOVES", "RETURNS"} <= set(found.fields)


def libraries_of_transitions() -> dict[str, str]:
    """The libraries that scripts other than those of the doctor use."""
    used = {
        library
        for name, path in PATHS.items()
        if path.parent.name != "doctor"
        for library in header(name).fields.get("USES", "").split()
    }
    return {name: source for name, source in LIBRARIES.items() if name in used}


def offers(library: str) -> list[str]:
    """The names that a library defines."""
    return re.findall(r"^local (?:function )?(\w+)", LIBRARIES[library], re.MULTILINE)


def uses(source: str, library: str) -> bool:
    """Whether code names something that a library defines."""
    code = re.sub(r"--.*", "", source)
    return any(re.search(rf"\b{name}\b", code) for name in offers(library))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_says_in_its_first_line_what_it_is(library: str) -> None:
    assert LIBRARIES[library].startswith(f"-- {library}: ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_libraries_that_are_used_exist_and_come_after_those_that_they_use(name: str) -> None:
    used = header(name).fields.get("USES", "").split()
    assert set(used) <= set(LIBRARIES)
    for number, library in enumerate(used):
        needed = {other for other in LIBRARIES if other != library and uses(LIBRARIES[library], other)}
        assert needed <= set(used[:number]), f"{library} needs {needed} before it"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_libraries_that_the_body_needs_are_named(name: str) -> None:
    found = header(name)
    own = set(re.findall(r"\blocal (?:function )?(\w+)", found.body))
    used = found.fields.get("USES", "").split()
    needed = {library for library in LIBRARIES if uses(found.body, library) and not own & set(offers(library))}
    assert needed <= set(used)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_library_is_used_for_nothing(name: str) -> None:
    found = header(name)
    used = found.fields.get("USES", "").split()
    for number, library in enumerate(used):
        users = found.body + "".join(LIBRARIES[later] for later in used[number + 1 :])
        assert uses(users, library), f"{name} does not use {library}"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("field", ["KEYS", "ARGV"])
def test_arguments_are_numbered_without_gaps_and_those_in_the_body_are_documented(name: str, field: str) -> None:
    found = header(name)
    numbers = list(found.numbered(field))
    assert numbers == list(range(1, len(numbers) + 1)), found.fields[field]
    used = {int(number) for number in re.findall(rf"\b{field}\[(\d+)\]", found.body)}
    assert used <= set(numbers)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_codes_that_are_returned_are_documented(name: str) -> None:
    """Bare numbers that are returned are numbers of the RETURNS line."""
    found = header(name)
    numbers = set(re.findall(r"\breturn\b[^\n]*?(?:\band |\bor |return )(-?\d+)\b(?!\s*[+*])", found.body))
    documented = set(re.findall(r"-?\d+", found.fields["RETURNS"]))
    assert numbers <= documented | {"0"}, f"{name} returns {numbers - documented}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_codes_have_the_numbers_of_the_enum(name: str) -> None:
    names = {"STALE_FENCE": ScriptStatus.STALE_FENCE, "NO_RUN": ScriptStatus.NO_RUN, "MORE": ScriptStatus.MORE}
    for number, word in re.findall(r"(-?\d+) ([A-Z][A-Z_]+)", header(name).fields["RETURNS"]):
        if word in names:
            assert int(number) == names[word]
        if word.startswith("ALREADY"):
            assert int(number) == ScriptStatus.ALREADY


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_put_together_with_its_libraries_and_the_keys_that_it_names(name: str) -> None:
    found = script(name)
    assert found.name == name
    assert len(found.sha) == 40
    assert "\n--" not in found.text
    words = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", re.sub(r"'[^']*'|\"[^\"]*\"", "", found.text)))
    lines = re.findall(r"^local (?!function)([\w, ]+)", found.text, re.MULTILINE)
    assert words - {"KEYS", "ARGV"} <= {name.strip() for line in lines for name in line.split(",")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_only_the_functions_that_it_needs(name: str) -> None:
    text = script(name).text
    for function in re.findall(r"^local function (\w+)", text, re.MULTILINE):
        assert len(re.findall(rf"\b{function}\b", text)) > 1, function


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_sent_again_to_a_server_that_does_not_know_the_script_is_its_source(name: str) -> None:
    call = run_script(name, int, (Keys()("RUN", "r"),), 1, "x")
    assert call.args == ("EVALSHA", script(name).sha, "1", "stepflow:run:r", "1", "x")
    assert call.with_source() == ("EVAL", script(name).text, "1", "stepflow:run:r", "1", "x")


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_payload_is_decoded_in_a_script(name: str) -> None:
    assert "cjson" not in script(name).text
    assert "cmsgpack" not in script(name).text


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_leaves_some_of_the_local_names_that_lua_allows(name: str) -> None:
    """The server refuses a script with more than 200 at once, with libraries and keys."""
    declared = re.findall(r"^local (function|[\w, ]+)", script(name).text, re.MULTILINE)
    assert sum(len(names.split(",")) for names in declared) <= 195, "put some into a table, or inline constants"
