"""The parser of calls in Lua reads nested calls, texts and several lines."""

from __future__ import annotations

import pytest

from tests.support.lua_calls import calls, functions, table_after, without_comments

SOURCE = """\
local LIMIT = 3 -- call(no)
local function first(run) -- call('no')
  redis.call('HSET', RUN .. run, 'a', f(1, {2, 3}), 'b, (c)',
    list[#list + 1])
  return redis.call('GET', KEYS[1])
end

function CHECK.rate(rule)
  local more = {'parent', rule.name}
end
"""


def test_arguments_are_split_at_the_commas_of_the_call_itself() -> None:
    assert list(calls(without_comments(SOURCE), "redis.call")) == [
        ["'HSET'", "RUN .. run", "'a'", "f(1, {2, 3})", "'b, (c)'", "list[#list + 1]"],
        ["'GET'", "KEYS[1]"],
    ]


def test_a_definition_and_a_longer_name_are_no_call() -> None:
    assert list(calls(SOURCE, "first")) == []
    assert list(calls("redis.pcall(1) pcall(2)", "pcall")) == [["2"]]


def test_functions_and_tables_are_found_by_name() -> None:
    assert list(functions(SOURCE)) == ["first", "CHECK.rate"]
    assert list(table_after(functions(SOURCE)["CHECK.rate"], "more = ")) == [["'parent'", "rule.name"]]


def test_a_call_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="no closing bracket"):
        list(calls("redis.call('GET', key", "redis.call"))
