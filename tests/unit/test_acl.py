"""The roles' rights follow from the scripts, and the ACL file says them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepflow_broker.access import roles
from stepflow_broker.access.acl import acl_file, read_passwords, rules
from stepflow_broker.access.roles import OPERATOR, PRODUCER, READER, ROLES, WORKER, Role, roles_that_may
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_engine.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
DANGEROUS = {"flushall", "flushdb", "keys", "config", "config|get", "config|set", "acl", "debug", "shutdown", "script"}


def line_of(role: Role, file: str) -> str:
    return next(line for line in file.splitlines() if line.startswith(f"user {role.user} "))


def test_the_file_that_is_shipped_is_the_one_that_is_made() -> None:
    shipped = (ROOT / "deploy" / "redis-acl" / "users.acl").read_text()
    assert shipped == acl_file({}), "python -m stepflow_broker.access.acl > deploy/redis-acl/users.acl"


def test_every_transition_is_some_role_s() -> None:
    assert [name for name in script_names() if not roles_that_may(name)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_role_has_commands_that_touch_everything(role: Role) -> None:
    assert not DANGEROUS & set(role.commands)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_has_every_key_and_command_that_its_scripts_name(role: Role) -> None:
    texts = rules(role)
    if role is READER:
        return
    for command in ("evalsha", "eval", *role.sent):
        assert f"+{command}" in texts
    assert "+hset" in texts
    assert any(text.endswith("~stepflow:run:*") for text in texts)


def test_who_only_looks_has_no_command_that_writes() -> None:
    writing = {word for role in (PRODUCER, WORKER, OPERATOR) for word in role.commands} - set(READER.commands)
    assert {"hset", "del", "zadd", "publish", "xadd"} <= writing
    assert not any(text.startswith("&") for text in rules(READER))


def test_a_producer_neither_registers_nor_pauses_nor_reads_what_steps_returned() -> None:
    texts = rules(PRODUCER)
    assert {"%R~stepflow:functions", "%R~stepflow:paused", "%W~stepflow:memos:*", "%W~stepflow:events"} <= set(texts)
    assert not any("rq:worker" in text for text in texts)


@pytest.mark.parametrize("name", PRODUCER.scripts)
def test_no_script_of_a_producer_reads_what_a_producer_only_writes(name: str) -> None:
    calls = re.findall(r"redis\.call\('([A-Z]+)', ([A-Z_]+)", script(name).text)
    called = {command for command, key in calls if key in PRODUCER.writes}
    assert called <= {"HSET", "HSETNX", "PEXPIRE", "XADD"}


def test_a_password_stands_in_the_file_as_its_hash() -> None:
    line = line_of(WORKER, acl_file({"worker": "open sesame"}))
    assert line.startswith(
        f"user stepflow-worker on sanitize-payload #{hashlib.sha256(b'open sesame').hexdigest()} resetkeys "
    )
    assert "sesame" not in line


def test_a_role_without_a_password_and_the_default_user_are_shut_out() -> None:
    file = acl_file({"worker": "open sesame"})
    assert line_of(PRODUCER, file).startswith("user stepflow-producer off ")
    assert file.splitlines()[-1].startswith("user default off ")


def test_redis_6_cannot_tell_reading_from_writing() -> None:
    assert not any("%" in text for role in ROLES for text in rules(role, (6, 2)))
    assert "+client|setinfo" in rules(WORKER, (7, 2))
    assert "+client|setinfo" not in rules(WORKER, (7, 0))


def test_channels_are_no_keys_and_keys_no_channels() -> None:
    channels = {key.text for key in KEYS if key.type == "channel"}
    for text in (text for role in ROLES for text in rules(role)):
        if "~" in text:
            assert text.rstrip("*").rpartition("~")[2] not in channels


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_with_partitions_a_role_has_the_same_keys_in_each_and_those_that_are_shared(role: Role) -> None:
    whole, divided = rules(role), rules(role, cluster=True)
    of_partitions = {text.replace("{sf:*}:", "") for text in divided if "{sf:*}:" in text}
    shared = {text for text in divided if "{sf:*}:" not in text}
    assert of_partitions - {"~stepflow:moving"} | shared == {*whole, *(f"+{word}" for word in role.in_cluster)}
    assert "~{sf:*}:stepflow:moving" in divided
    assert not {text.rpartition("~")[2] for text in shared} & {"stepflow:run:*", "rq:queue:*"}
    assert "+cluster|slots" in divided


def test_an_action_on_a_key_of_a_partition_is_for_the_same_roles() -> None:
    assert roles_that_may("hget {sf:17}:stepflow:run:r1") == roles_that_may("hget stepflow:run:r1") != []
    assert roles_that_may("cluster|info") == ["operator", "read-only"]


def test_passwords_come_from_files_by_the_names_of_the_roles(tmp_path: Path) -> None:
    (tmp_path / "read-only").write_text("look\n")
    (tmp_path / "admin").write_text("all")
    (tmp_path / "README").write_text("not a role")
    assert read_passwords(tmp_path) == {"read-only": "look", "admin": "all"}


@pytest.mark.parametrize(
    ("name", "text", "part"), [("worker", "", "is empty"), ("nobody", "x", "there is no password")]
)
def test_a_folder_without_passwords_is_refused(tmp_path: Path, name: str, text: str, part: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=part):
        read_passwords(tmp_path)


def test_the_program_prints_the_file(tmp_path: Path) -> None:
    (tmp_path / "worker").write_text("open sesame\n")
    words = [sys.executable, "-m", "stepflow_broker.access.acl", "--passwords", str(tmp_path), "--server", "7.2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == acl_file({"worker": "open sesame"}, server=(7, 2))
    divided = subprocess.run([*words, "--cluster"], capture_output=True, text=True, check=True)
    assert divided.stdout == acl_file({"worker": "open sesame"}, server=(7, 2), cluster=True)
    wrong = subprocess.run([*words[:-2], "--server", "new"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_the_read_only_role_has_the_commands_of_its_scripts_that_only_read() -> None:
    """Those of an examination are refused where it would write: it does not repair."""
    scripts = [name for name in READER.scripts if not name.startswith("examine_")]
    called = {command for name in scripts for command in roles._called(name)}
    assert called <= set(READER.commands)
