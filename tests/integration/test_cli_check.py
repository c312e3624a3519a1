"""``stepflow check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import call

CODE = """
import random, time
from stepflow import Context, Stepflow

app = Stepflow("shop")


@app.function("order")
async def order(ctx: Context) -> None:
    print(time.time())


@app.function("fine")
async def fine(ctx: Context) -> None:
    await ctx.step.run("coin", random.random)
"""


def test_a_function_without_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"exec({CODE!r})")
    done = call("check", "shop:app", cwd=tmp_path)
    assert done.stdout.splitlines() == ["2 functions checked, 0 findings"]
    assert "shop/order was not checked: its source cannot be read" in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(CODE)
    return tmp_path


def test_findings_are_printed_with_their_place_and_fail_the_command(folder: Path) -> None:
    done = call("check", "shop:app", cwd=folder)
    assert done.stdout.splitlines() == [
        "shop.py:10: time.time() has another value on each replay of shop/order: use ctx.now(), or call it in a step",
        "2 functions checked, 1 finding",
    ]
    assert done.returncode == 1


def test_the_json_output_has_the_fields_of_a_finding(folder: Path) -> None:
    done = call("check", "shop:app", "-o", "json", cwd=folder)
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding == {
        "path": "shop.py",
        "line": 10,
        "function": "shop/order",
        "call": "time.time()",
        "message": ("time.time() has another value on each replay of shop/order: use ctx.now(), or call it in a step"),
    }


def test_code_without_findings_passes(folder: Path) -> None:
    (folder / "shop.py").write_text(CODE.replace("print(time.time())", "print(ctx.now())"))
    done = call("check", "shop:app", cwd=folder)
    assert (done.stdout, done.returncode) == ("2 functions checked, 0 findings\n", 0)


def test_an_app_that_cannot_be_loaded_is_a_configuration_error(folder: Path) -> None:
    done = call("check", "shop:nothing", cwd=folder)
    assert done.returncode == 3
    assert "nothing" in done.stderr
