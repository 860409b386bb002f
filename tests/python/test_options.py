"""The table of options and its parsers."""

from __future__ import annotations

import os
import typing
from pathlib import Path

import fake_core  # noqa: F401
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpredict import options
from fastpredict.options import (
    BY_NAME,
    OPTIONS,
    ServeOptions,
    ServerOptions,
    default_max_inflight_bytes,
    parse_mode,
    parse_seconds,
    parse_shape,
    parse_size,
    parse_switch,
    parse_text,
    resolve,
)

# The contract's table, word for word: a default that changes here changes for every user.
CONTRACT = {
    "uds_mode": 0o600,
    "threads": 1,
    "max_request_body_size": 1 << 30,
    "max_queued_requests": 64,
    "limit_concurrency": 1024,
    "timeout_head": 30,
    "timeout_read": 30,
    "timeout_write": 30,
    "min_data_rate": 1024,
    "timeout_keep_alive": 75,
    "timeout_queue": 0,
    "timeout_graceful_shutdown": 30,
    "allow_client_shm": False,
    "copy_client_memory": False,
    "access_log": True,
    "log_level": "info",
    "host": None,
    "port": None,
    "uds": None,
    "fd": None,
}


def test_defaults_are_the_contracts():
    values = resolve({}, "serve")
    assert values.pop("max_inflight_bytes") == default_max_inflight_bytes()
    assert values == CONTRACT


def test_typed_keywords_are_the_tables():
    def names(*audiences):
        return {option.name for option in OPTIONS if option.audience in audiences}

    assert set(ServerOptions.__annotations__) == names("server")
    assert set(ServeOptions.__annotations__) | names("server") == names("server", "serve")
    assert set(typing.get_args(options.Audience)) == {option.audience for option in OPTIONS}


def test_every_option_has_a_name_for_each_place():
    assert len(BY_NAME) == len(OPTIONS)
    for option in OPTIONS:
        assert option.flag == "--" + option.name.replace("_", "-")
        assert option.env == "FASTPREDICT_" + option.name.upper()
        assert option.help.endswith(".")
        assert option.default is None or option.parse(option.default) == option.default


def test_defaults_fit_their_parsers_and_none_means_default():
    given_none = dict.fromkeys(CONTRACT)
    assert resolve(given_none, "serve") == resolve({}, "serve")


def test_unknown_and_misplaced_keywords_are_refused():
    with pytest.raises(TypeError, match=r"'treads' is not an option.*threads"):
        resolve({"treads": 1}, "serve")
    with pytest.raises(TypeError, match="log_level"):
        resolve({"log_level": "info"}, "server")
    with pytest.raises(TypeError, match="factory"):
        resolve({"factory": True}, "serve")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 0),
        ("threads", "many"),
        ("threads", True),
        ("threads", 1.5),
        ("port", -1),
        ("port", 65536),
        ("fd", -1),
        ("max_request_body_size", "1T"),
        ("max_request_body_size", -1),
        ("max_queued_requests", 0),
        ("limit_concurrency", 0),
        ("timeout_head", -1),
        ("timeout_head", 0),
        ("timeout_read", "0"),
        ("timeout_write", 0.0001),
        ("timeout_keep_alive", 0),
        ("timeout_read", "nan"),
        ("timeout_write", float("inf")),
        ("timeout_queue", True),
        ("timeout_queue", "soon"),
        ("uds_mode", "999"),
        ("uds_mode", 0o1777),
        ("uds", ""),
        ("host", "a\0b"),
        ("access_log", "maybe"),
        ("log_level", "loud"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected .*got"):
        resolve({name: value}, "serve")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("64K", 65536),
        ("1m", 1 << 20),
        ("2G", 2 << 30),
        (7, 7),
        (" 1K ", 1024),
    ],
)
def test_sizes_take_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "1.5G", "-1", "1KB", "0x10", "1 K", None, 1.5, True, "١"]
)
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.text(max_size=12))
def test_parsers_read_a_text_or_refuse_it_with_a_sentence(text):
    for option in OPTIONS:
        said = "expected nothing"
        try:
            option.parse(text)
        except ValueError as error:
            said = str(error)
        assert said.startswith("expected ")


def test_other_values_are_read_as_people_write_them():
    assert parse_mode("0660") == parse_mode("660") == parse_mode(0o660) == 0o660
    assert parse_seconds("1.5") == 1.5
    assert parse_switch("0") is parse_switch("off") is parse_switch("FALSE") is False
    assert parse_switch("1") is parse_switch("yes") is True
    assert parse_text(Path("/run/p.sock")) == "/run/p.sock"
    assert parse_shape("3000,2500") == parse_shape("(3000, 2500)") == (3000, 2500)
    assert parse_shape("-1,3") == (-1, 3)
    assert parse_shape("5") == parse_shape("(5,)") == (5,)
    assert parse_shape("()") == ()
    for bad in ("", "a", "1,,2", "1.5"):
        with pytest.raises(ValueError, match="shape"):
            parse_shape(bad)


# ---- memory --------------------------------------------------------------------------------------

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def make_tree(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, PHYSICAL),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, PHYSICAL),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4194304\n"}, 4 << 20),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4194304\n"}, 4 << 20),
        ({"proc/self/cgroup": "0::/host/x\n", "sys/fs/cgroup/memory.max": "4194304\n"}, 4 << 20),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8388608\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8 << 20,
        ),
        ({"proc/self/cgroup": "nonsense\n\n0::\n:\n"}, PHYSICAL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(2**62)}, PHYSICAL),
    ],
)
def test_memory_in_flight_is_a_quarter_of_the_smallest_limit(tmp_path, files, memory):
    assert default_max_inflight_bytes(make_tree(tmp_path, files)) == memory // 4
