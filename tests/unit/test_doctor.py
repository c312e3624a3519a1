"""What the doctor knows is complete: its codes, its documents, and the commands whose rights it tries."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from stepflow_broker.doctor.findings import RULES
from stepflow_broker.protocol.scripts import script, script_names

LUA = Path(str(files("stepflow_broker"))) / "lua"
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "doctor-findings.md").read_text()


def test_the_rights_that_are_tried_are_those_of_all_commands_in_the_scripts() -> None:
    used = {command for name in script_names() for command in re.findall(r"redis\.call\('([A-Z]+)'", script(name).text)}
    tried = set(re.findall(r"\{'([A-Z]+)'", (LUA / "doctor" / "check_permissions.lua").read_text()))
    assert used <= tried, used - tried


def test_the_scripts_report_codes_that_are_known() -> None:
    texts = [path.read_text() for path in LUA.glob("doctor/examine_*.lua")]
    codes = {code for text in texts for code in re.findall(r"report\('(\w+)',", text)}
    assert codes
    assert codes <= set(RULES)


@pytest.mark.parametrize("code", RULES)
def test_every_code_stands_in_the_documents(code: str) -> None:
    assert f"`{code}`" in PAGE
