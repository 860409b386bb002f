"""Tests that what is used of libh2o is what SECURITY.md speaks of: none of its protocols."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from fastpredict import _core

#: Event loop, sockets, memory, configuration, requests and answers; each was read.
USED = set(
    """
    h2o__fatal h2o__tokens h2o_add_header_by_str h2o_config_dispose h2o_config_init
    h2o_config_register_host h2o_config_register_path h2o_connection_id h2o_context_dispose
    h2o_context_init h2o_context_update_timestamp_cache h2o_create_handler h2o_dispose_request
    h2o_evloop_create h2o_evloop_destroy h2o_evloop_run h2o_evloop_socket_create h2o_find_header
    h2o_init_request h2o_mem_alloc_pool h2o_mem_init_pool h2o_mem_link_shared h2o_process_request
    h2o_req_bind_conf h2o_send h2o_socket_close h2o_socket_get_fd h2o_socket_getnumerichost
    h2o_socket_getpeername h2o_socket_getport h2o_socket_getsockname h2o_socket_notify_write
    h2o_socket_read_start h2o_socket_read_stop h2o_start_response phr_parse_request
""".split()  # noqa: SIM905 - as nm lists them
)


def test_nothing_else_of_libh2o_is_called() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm (binutils)")
    command = [nm, "--dynamic", "--undefined-only", _core.__file__]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    called = set(re.findall(r"\b((?:h2o|phr)_\w+)", listed))
    assert called >= {"h2o_process_request", "phr_parse_request"}, "nm shows no libh2o at all"
    assert sorted(called - USED) == [], "read it in libh2o first, then SECURITY.md"
