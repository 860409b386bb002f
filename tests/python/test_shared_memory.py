"""ClientMemory and Loan over true shared memory objects, and what control requests make of them."""

from __future__ import annotations

import gc
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from fake_infer import Exchange

from fastpredict import infer_worker, shared_memory, worker
from fastpredict.decode import BadInput
from fastpredict.inference import Region
from fastpredict.models import answer_control, make_model
from fastpredict.route import make_route
from fastpredict.shared_memory import MAX_NAME, MAX_REGIONS, ClientMemory, Loan, copied

if not hasattr(fake_core.core(), "Region"):
    pytest.skip("the extension isn't built", allow_module_level=True)

PAGE = os.sysconf("SC_PAGE_SIZE")


class Object:
    """A shared memory object of the test's own."""

    def __init__(self, nbytes: int) -> None:
        self.key = f"/fastpredict-{uuid.uuid4().hex}"
        self.path = Path("/dev/shm" + self.key)
        self.path.touch(0o600)
        self.cut(nbytes)

    def cut(self, nbytes: int) -> None:
        os.truncate(self.path, nbytes)

    def write(self, data: bytes, offset: int = 0) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def is_mapped(self) -> bool:
        return self.key in Path("/proc/self/maps").read_text()


MakeObject = Callable[[int], Object]


@pytest.fixture
def make() -> Iterator[MakeObject]:
    made = []

    def make(nbytes: int) -> Object:
        made.append(Object(nbytes))
        return made[-1]

    yield make
    for each in made:
        each.path.unlink(missing_ok=True)


@pytest.fixture
def shm(make: MakeObject) -> Object:
    return make(3 * PAGE)


@pytest.fixture
def memory() -> ClientMemory:
    return ClientMemory(allowed=True)


def refusal(call: Callable[..., object], *args: Any) -> tuple[int, str]:
    with pytest.raises(BadInput) as caught:
        call(*args)
    assert len(str(caught.value)) < 400
    return caught.value.status, str(caught.value)


def lend(memory: ClientMemory, *regions: Region) -> Loan:
    loan = memory.lend(Exchange())
    for region in regions:
        loan.hold(region)
    return loan


# ---- registering ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["", "/", "//", ".", "..", "/..", "/../dev/zero", "a/b", "/a/../b", "/a/", "a\0b", "\ud800"],
)
def test_a_key_that_is_no_plain_name_is_refused(memory: ClientMemory, key: str) -> None:
    status, sentence = refusal(memory.register, "r", key, 0, 1)
    assert status == 400
    assert "expected a name such as '/input'" in sentence
    assert memory.status() == []


def test_an_object_that_is_not_there_is_refused(memory: ClientMemory) -> None:
    assert "No such file" in refusal(memory.register, "r", "/fastpredict-nothing", 0, 1)[1]
    assert "name too long" in refusal(memory.register, "r", "x" * 70_000, 0, 1)[1]


def test_links_folders_and_pipes_are_refused(memory: ClientMemory, shm: Object) -> None:
    for what, sentence in (("link", "can't be opened"), ("dir", "can't be opened"), ("pipe", "no")):
        path = shm.path.with_name(f"{shm.path.name}-{what}")
        if what == "link":
            path.symlink_to(shm.path)
        elif what == "dir":
            path.mkdir()
        else:
            os.mkfifo(path)
        try:
            assert sentence in refusal(memory.register, "r", path.name, 0, 1)[1]
        finally:
            path.rmdir() if what == "dir" else path.unlink()


def test_an_object_of_another_user_is_refused(
    memory: ClientMemory, shm: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    status, sentence = refusal(memory.register, "r", shm.key, 0, 1)
    assert (status, "another user" in sentence) == (403, True)


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [
        (0, 3 * PAGE + 1),
        (1, 3 * PAGE),
        (3 * PAGE, 1),
        (3 * PAGE + 1, 1),
        (1 << 62, 1),
        (1 << 63, 1 << 63),
        (0, 1 << 64),
        (1 << 4000, 1),
    ],
)
def test_a_part_beyond_the_object_is_refused(
    memory: ClientMemory, shm: Object, offset: int, byte_size: int
) -> None:
    with pytest.raises(BadInput, match=f"go beyond the {3 * PAGE} bytes"):
        memory.register("r", shm.key, offset, byte_size)


def test_every_part_of_the_object_can_be_registered(memory: ClientMemory, shm: Object) -> None:
    shm.write(b"abc", 2 * PAGE - 1)
    for key, offset, byte_size in (
        (shm.key, 0, 3 * PAGE),
        (shm.key[1:], 3 * PAGE - 1, 1),
        ("//" + shm.key, 2 * PAGE - 1, 3),
    ):
        memory.register("r", key, offset, byte_size)
        assert memory.status("r") == [
            {"name": "r", "key": key, "offset": offset, "byte_size": byte_size}
        ]
        view = lend(memory, Region("r", byte_size, 0)).view(Region("r", byte_size, 0))
        assert view == bytes(shm.path.read_bytes()[offset : offset + byte_size])
        memory.unregister("r")


def test_a_name_is_registered_once_until_it_is_unregistered(
    memory: ClientMemory, shm: Object
) -> None:
    memory.register("r", shm.key, 0, 1)
    assert "registered already" in refusal(memory.register, "r", shm.key, 0, 1)[1]
    memory.register("s", shm.key, 0, 2)
    assert [each["byte_size"] for each in memory.status()] == [1, 2]
    memory.unregister("r")
    memory.unregister("r")
    memory.register("r", shm.key, 0, 3)
    memory.unregister()
    assert memory.status() == []
    assert "no shared memory region" in refusal(memory.status, "r")[1]


def test_regions_and_their_names_are_bounded(memory: ClientMemory, shm: Object) -> None:
    for name in ("x" * (MAX_NAME + 1), "a\n", "\udcff"):
        assert "name is printable" in refusal(memory.register, name, shm.key, 0, 1)[1]
    for number in range(MAX_REGIONS):
        memory.register(str(number), shm.key, 0, 1)
    assert "unregister some" in refusal(memory.register, "more", shm.key, 0, 1)[1]
    memory.unregister("7")
    memory.register("x" * MAX_NAME, shm.key, 0, 1)


def test_no_descriptor_is_left_open(memory: ClientMemory, shm: Object) -> None:
    before = os.listdir("/proc/self/fd")
    memory.register("r", shm.key, 0, 1)
    for args in (("r", shm.key, 0, 1), ("s", shm.key, 0, 1 << 40), ("s", "/fastpredict-no", 0, 1)):
        refusal(memory.register, *args)
    assert os.listdir("/proc/self/fd") == before


def test_a_lease_on_the_object_does_not_hold_up_the_control_thread(
    memory: ClientMemory, shm: Object
) -> None:
    fcntl = pytest.importorskip("fcntl")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # which tells the holder that it is broken
    fd = os.open(shm.path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        pytest.skip("no leases here")
    else:
        assert "can't be opened" in refusal(memory.register, "r", shm.key, 0, 1)[1]
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


# ---- using regions -------------------------------------------------------------------------------


def test_shared_memory_is_for_clients_on_this_host(memory: ClientMemory, shm: Object) -> None:
    memory.register("r", shm.key, 0, 8)
    for client in ("unix", "127.0.0.1:5", "127.8.8.8:1", "[::1]:7", "[::ffff:127.0.0.1]:80"):
        exchange = Exchange()
        exchange.client = client
        memory.lend(exchange).hold(Region("r", 8, 0))
    for client in (
        "10.0.0.1:5",
        "12.7.0.1:1",
        "[::2]:1",
        "[::ffff:10.0.0.1]:1",
        "-",
        "[fe80::1]:1",
    ):
        exchange = Exchange()
        exchange.client = client
        status, sentence = refusal(memory.lend(exchange).hold, Region("r", 8, 0))
        assert (status, client in sentence) == (403, True)
    for name in ("forwarded", "x-forwarded-for", "via", "origin"):
        exchange = Exchange(headers={name: "x"})
        assert refusal(memory.lend(exchange).hold, Region("r", 8, 0))[0] == 403


def test_without_the_option_nothing_is_served() -> None:
    status, sentence = refusal(lend, ClientMemory(), Region("r", 8, 0))
    assert (status, "--allow-client-shm" in sentence) == (403, True)


@pytest.mark.parametrize("piece", [(65, 0), (0, 65), (1, 64), (1 << 70, 0), (1, 1 << 70), (33, 32)])
def test_a_piece_beyond_its_region_is_refused(
    memory: ClientMemory, shm: Object, piece: tuple[int, int]
) -> None:
    memory.register("r", shm.key, PAGE, 64)
    lend(memory, Region("r", 64, 0), Region("r", 0, 64), Region("r", 32, 32))
    assert "beyond the 64 bytes" in refusal(lend, memory, Region("r", *piece))[1]
    assert "register it" in refusal(lend, memory, Region("q", 1, 0))[1]


def test_inputs_are_read_only_and_outputs_are_written(memory: ClientMemory, shm: Object) -> None:
    memory.register("r", shm.key, 10, 64)
    piece = Region("r", 8, 6)
    loan = lend(memory, piece)
    view = loan.view(piece)
    assert (view.readonly, view.nbytes) == (True, 8)
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(view, "u1").flags.writeable = True
    for data in (b"12345678", np.arange(2, dtype="f4"), np.ones((2, 2, 2), bool), b"", np.int64(3)):
        array = data if isinstance(data, bytes) else np.asarray(data)
        loan.store(piece, array)
        stored = bytes(data) if isinstance(data, bytes) else array.tobytes()
        assert view[: len(stored)] == stored
        assert shm.path.read_bytes()[16 : 16 + len(stored)] == stored
    loan.check()


def test_an_output_may_lie_over_its_input(memory: ClientMemory, shm: Object) -> None:
    shm.write(bytes(range(64)))
    memory.register("r", shm.key, 0, 64)
    loan = lend(memory, Region("r", 63, 0))
    loan.store(Region("r", 63, 1), np.frombuffer(loan.view(Region("r", 63, 0)), "u1"))
    assert shm.path.read_bytes()[:64] == bytes([0, *range(63)])


def test_memory_stays_while_a_request_or_an_array_uses_it(
    memory: ClientMemory, shm: Object
) -> None:
    shm.write(b"abcdefgh")
    piece = Region("r", 8, 0)
    memory.register("r", shm.key, 0, PAGE)
    loan = lend(memory, piece)
    memory.unregister("r")
    shm.path.unlink()
    array = np.frombuffer(loan.view(piece), "u1")
    del loan
    gc.collect()
    assert array.tobytes() == b"abcdefgh"
    assert shm.is_mapped()
    del array
    assert not shm.is_mapped()


def test_an_object_that_is_cut_short_spoils_its_region_until_it_is_registered_anew(
    memory: ClientMemory, shm: Object
) -> None:
    shm.write(b"x" * 3 * PAGE)
    memory.register("r", shm.key, 0, 3 * PAGE)
    memory.register("other", shm.key, 0, PAGE)
    piece = Region("r", 3 * PAGE, 0)
    loan = lend(memory, piece)
    shm.cut(PAGE)
    loan.check()
    assert bytes(loan.view(piece)) == b"x" * PAGE + bytes(2 * PAGE)
    assert "cut short" in refusal(loan.check)[1]
    shm.cut(3 * PAGE)
    assert "register it anew" in refusal(lend, memory, piece)[1]
    lend(memory, Region("other", PAGE, 0)).check()
    memory.register("r", shm.key, 0, 3 * PAGE)
    lend(memory, piece).check()


def test_an_output_into_an_object_that_is_cut_short_fails(
    memory: ClientMemory, shm: Object
) -> None:
    memory.register("r", shm.key, 0, 3 * PAGE)
    piece = Region("r", 3 * PAGE, 0)
    loan = lend(memory, piece)
    shm.cut(0)
    loan.store(piece, np.ones(3 * PAGE, np.uint8))
    assert "cut short" in refusal(loan.check)[1]


# ---- in requests ---------------------------------------------------------------------------------


def infer(memory: ClientMemory, handler: Callable[[Any], Any], nbytes: int) -> Exchange:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": nbytes}
    entry = {"name": "x", "datatype": "UINT8", "shape": [nbytes], "parameters": region}
    exchange = Exchange(json.dumps({"inputs": [entry]}).encode())
    model = make_model("m", handler, inputs={"x": ("u1", -1)}, outputs={"y": (None, None)})
    infer_worker.answer_infer(exchange, model, os.getpid(), memory.lend(exchange))
    stages = model.statistics.snapshot()["inference_stats"]
    assert stages["success"]["count"] == (exchange.status == 200)
    assert stages["fail"]["count"] == (exchange.status != 200)
    return exchange


def test_a_request_whose_memory_went_away_fails_and_says_why(
    memory: ClientMemory, shm: Object, caplog: pytest.LogCaptureFixture
) -> None:
    def cut(x: Any) -> Any:
        shm.cut(0)
        return int(x.sum())

    def cut_and_fail(x: Any) -> Any:
        shm.cut(0)
        assert x[0], "zeros"

    for handler in (cut, cut_and_fail):
        shm.cut(3 * PAGE)
        shm.write(b"x")
        memory.unregister()
        memory.register("r", shm.key, 0, 3 * PAGE)
        assert infer(memory, lambda x: x[:1], 3 * PAGE).json["outputs"][0]["data"] == [120]
        exchange = infer(memory, handler, 3 * PAGE)
        assert (exchange.status, "cut short" in exchange.error) == (400, True)
        exchange = infer(memory, lambda x: x[:1], 3 * PAGE)
        assert (exchange.status, "register it anew" in exchange.error) == (400, True)
    assert caplog.records == []


def test_copies_are_for_what_lies_in_a_clients_memory() -> None:
    lent = np.frombuffer(bytes(range(6)), "u1").reshape(2, 3)
    copy = copied(lent)
    assert (copy == lent).all()
    assert copy.flags.owndata
    assert not copy.flags.writeable
    assert copied(lent.T).flags.f_contiguous
    own = np.zeros(3)
    assert copied(own) is own


def test_a_predict_route_hands_out_copies_where_it_is_told_to() -> None:
    class Lending(fake_core.Exchange):
        def array(self, *args: Any, **options: Any) -> Any:
            array = super().array(*args, **options)
            array.flags.writeable = False
            return array

    seen = []

    def keep(array: Any) -> None:
        seen.append(array)

    route = make_route("/p", keep, dtype="f4", shape=None)
    for copies in (True, False):
        exchange = Lending(np.arange(4, dtype="f4").tobytes())
        worker.answer(exchange, route, os.getpid(), copies)
        exchange.memory[:] = bytes(16)
    assert [array.tolist() for array in seen] == [[0, 1, 2, 3], [0, 0, 0, 0]]


# ---- control requests ----------------------------------------------------------------------------


def control(
    memory: ClientMemory, path: str, body: Any = None, method: str | None = None
) -> Exchange:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    method = method or ("GET" if path.endswith("status") else "POST")
    exchange = Exchange(data, method=method, path="/v2/" + path)
    answer_control(exchange, {}, lambda: True, memory)
    return exchange


def test_regions_come_and_go_by_requests(memory: ClientMemory, shm: Object) -> None:
    region = "systemsharedmemory/region/r/"
    asked = {"key": shm.key, "offset": 5, "byte_size": 7}
    assert control(memory, region + "register", asked).json == {}
    described = [{"name": "r", **asked}]
    assert control(memory, region + "status").json == described
    assert control(memory, "systemsharedmemory/status").json == described
    assert control(memory, region + "unregister").status == 200
    assert control(memory, region + "status").status == 400
    control(memory, region + "register", {"key": shm.key, "byte_size": 1})
    assert control(memory, "systemsharedmemory/unregister").status == 200
    assert control(memory, "systemsharedmemory/status").json == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b"[" * 200_000, "must be JSON"),
        ({"byte_size": 1}, "'key' must be"),
        ({"key": 5, "byte_size": 1}, "'key' must be"),
        ({"key": "/a"}, "'byte_size' must be"),
        ({"key": "/a", "byte_size": 0}, "'byte_size' must be"),
        ({"key": "/a", "byte_size": -1}, "'byte_size' must be"),
        ({"key": "/a", "byte_size": 1.0}, "'byte_size' must be"),
        ({"key": "/a", "byte_size": True}, "'byte_size' must be"),
        ({"key": "/a", "byte_size": 1, "offset": -1}, "'offset' must be"),
        ({"key": "/a", "byte_size": 1, "offset": None}, "'offset' must be"),
        ({"key": "/\ud800", "byte_size": 1}, "expected a name"),
    ],
)
def test_a_registration_that_is_none_is_refused(
    memory: ClientMemory, body: Any, sentence: str
) -> None:
    exchange = control(memory, "systemsharedmemory/region/r/register", body)
    assert (exchange.status, sentence in exchange.error) == (400, True)


def test_other_paths_and_methods_are_refused(memory: ClientMemory) -> None:
    for path in ("register", "region/r", "region//status", "region/a/b/status", "", "status/"):
        assert control(memory, "systemsharedmemory/" + path).status == 404
        assert control(memory, "cudasharedmemory/" + path).status == 404
    for path, allow in (("status", "GET, HEAD"), ("unregister", "POST")):
        exchange = control(memory, "systemsharedmemory/" + path, method="DELETE")
        assert exchange.status == 405
        assert exchange.replies[0][1]["Allow"] == allow


def test_cuda_is_refused_in_so_many_words(memory: ClientMemory) -> None:
    region = "cudasharedmemory/region/r/"
    exchange = control(memory, region + "register", {"raw_handle": {"b64": ""}})
    assert (exchange.status, "CUDA" in exchange.error) == (400, True)
    assert control(memory, region + "status").status == 400
    assert control(memory, "cudasharedmemory/status").json == []
    assert control(memory, "cudasharedmemory/unregister").status == 200  # as examples begin


def test_the_extension_is_named_and_served_where_it_is_allowed(memory: ClientMemory) -> None:
    for each, status in ((memory, 200), (ClientMemory(), 403)):
        named = control(each, "", method="GET").status, control(each, "systemsharedmemory/status")
        assert named[1].status == status
        exchange = Exchange(path="/v2", method="GET")
        answer_control(exchange, {}, lambda: True, each)
        assert ("system_shared_memory" in exchange.json["extensions"]) == (status == 200)
    assert "--allow-client-shm" in named[1].error
    assert shared_memory.NOT_ALLOWED.status() == []
