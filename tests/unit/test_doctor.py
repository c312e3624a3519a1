"""The table of findings is complete: codes, places, and the commands whose rights are tried."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

from stepflow_broker.doctor import examine
from stepflow_broker.doctor.findings import CHECKS, PLACES, RULES
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.protocol.scripts import script, script_names

BROKER = Path(str(files("stepflow_broker")))
LUA = BROKER / "lua"
_REPORT = re.compile(r"\breport\((?:count == 0 and )?'(\w+)'(?: or '(\w+)')?, (?:'(\w*)')?")


def test_the_rights_that_are_tried_are_those_of_all_commands_in_the_scripts() -> None:
    used = {command for name in script_names() for command in re.findall(r"redis\.call\('([A-Z]+)'", script(name).text)}
    tried = set(re.findall(r"\{'([A-Z]+)'", (LUA / "doctor" / "check_permissions.lua").read_text()))
    assert used <= tried, used - tried


def test_the_scripts_report_known_codes_and_places() -> None:
    sources = [LUA / "lib" / "findings.lua", *LUA.glob("doctor/examine_*.lua")]
    calls = [call for path in sources for call in _REPORT.findall(path.read_text())]
    assert (
        len(calls)
        == sum(path.read_text().count("report('") + path.read_text().count("report(c") for path in sources) - 1
    )
    for first, second, place in calls:
        for code in filter(None, (first, second)):
            assert code in RULES
            assert place.lower() in ("", *RULES[code].places), f"{code} at {place}"


def test_the_places_are_kinds_of_keys_and_each_is_used() -> None:
    kinds = {key.name.lower() for key in KEYS} | {"continuation"}
    assert set(PLACES) <= kinds
    assert {where for rule in RULES.values() for where in rule.where + rule.warnings} == set(PLACES)


def test_the_script_that_examines_entries_knows_all_kinds_of_keys_that_it_is_sent() -> None:
    source = (LUA / "lib" / "findings.lua").read_text() + (LUA / "doctor" / "examine_entries.lua").read_text()
    tables = re.findall(r"^local (?:ZSETS|WHOLE_KEYS|EXPIRING) = \{(.*?)\}", source, re.MULTILINE | re.DOTALL)
    known = {kind for table in tables for kind in re.findall(r"(\w+) = \1\b", table)}
    sent = {*examine._INDEXES, *examine._INDEXES_WITH_ID, *examine._WHOLE_KEYS}
    assert sent - known == {"WAITS", "RUN_FUNCTIONS"}  # sets


def test_a_place_that_may_be_missing_says_what_that_means() -> None:
    assert {where for where, place in PLACES.items() if place.loss} == set(RULES["missing"].places)


def test_the_checks_of_the_server_are_those_of_the_table() -> None:
    found: set[str] = set()
    for name in ("server.py", "node.py"):
        for node in ast.walk(ast.parse((BROKER / "doctor" / name).read_text())):
            match node:
                case ast.Call(ast.Name("Finding" | "_ok" | "_warning" | "_error"), [ast.Constant(str(code)), *_]):
                    found.add(code)
    assert found == set(CHECKS)
