"""fastpredict._core: who owns the memory of bodies and replies, and what its calls refuse.

Every test drives a real server from one thread: a request is sent, taken, answered, read. So a test
can stand between the reply and its reader and look at what happens to the memory meanwhile.
"""

import copy
import gc
import http.client
import json
import os
import pickle
import signal
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastpredict import _core

LARGE = 32 << 20  # more than the socket buffers of both ends hold
PATIENCE_S = 30.0

OPTIONS: dict[str, Any] = {
    "max_request_body_size": 1 << 30,
    "max_inflight_bytes": 1 << 30,
    "max_queued_requests": 64,
    "limit_concurrency": 64,
    "timeout_head": 30,
    "timeout_read": 30,
    "timeout_write": 30,
    "min_data_rate": 0,
    "timeout_keep_alive": 75,
    "timeout_queue": 0,
    "timeout_graceful_shutdown": 30,
    "access_log": False,
}


def make_route(path: str = "/predict") -> _core.Route:
    return _core.Route(
        path,
        raw_unit_bytes=1,
        raw_exact=False,
        raw_allowed=True,
        npy_max_bytes=0,
        expected="uint8 of shape (-1,)",
    )


def make_server(**options: Any) -> _core.Server:
    return _core.Server([make_route()], **{**OPTIONS, **options})


class Core:
    """A running server and a connection to it."""

    def __init__(self) -> None:
        self.server = make_server()
        self.port = self.server.listen_tcp("127.0.0.1", 0)
        self.server.start()
        self.server.set_ready()
        self.control = threading.Thread(target=self.reap, daemon=True)
        self.control.start()
        self.client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def reap(self) -> None:
        while self.server.reap():
            pass

    def send(self, body: bytes = b"", **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.client.request("POST", "/predict", body, names)

    def take(self) -> _core.Exchange:
        """The request that was sent; a server that never gives it fails the test, not the run."""
        watchdog = threading.Timer(PATIENCE_S, self.server.stop)
        watchdog.start()
        try:
            exchange = self.server.take()
        finally:
            watchdog.cancel()
        assert exchange is not None
        return exchange

    def exchange(self, body: bytes = b"", **headers: str) -> _core.Exchange:
        self.send(body, **headers)
        return self.take()

    def read(self) -> tuple[int, bytes]:
        response = self.client.getresponse()
        return response.status, response.read()

    def slots(self) -> tuple[int, int]:
        stats = self.server.stats()
        return stats["out_slots"], stats["idle_slots"]

    def close(self) -> None:
        self.client.close()
        self.server.stop()
        assert self.server.join(PATIENCE_S)
        self.control.join(PATIENCE_S)
        assert not self.control.is_alive(), "the control thread still waits for an exchange"


@contextmanager
def running() -> Iterator[Core]:
    core = Core()
    try:
        yield core
    finally:
        core.close()


@pytest.fixture
def core() -> Iterator[Core]:
    with running() as core:
        yield core


def address(buffer: Any) -> int:
    data: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return data


def eventually(is_true: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def floats(count: int) -> npt.NDArray[np.float32]:
    return np.arange(count, dtype=np.float32)


# ---- array() and body


def test_array_is_aligned_writable_and_the_receive_buffer_itself(core: Core) -> None:
    exchange = core.exchange(floats(600_000).tobytes())
    array = exchange.array(np.dtype(np.float32), (600, 1000))
    assert array.shape == (600, 1000)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.aligned
    assert not array.flags.owndata
    assert array.ctypes.data % 64 == 0
    assert array.ctypes.data == address(exchange.body)
    np.testing.assert_array_equal(array.ravel(), floats(600_000))
    array[0, 0] = 7
    assert exchange.body[:4] == np.float32(7).tobytes()
    exchange.body[4:8] = np.float32(8).tobytes()
    assert array[0, 1] == 8
    exchange.reply(200, [], [])


def test_arrays_of_one_exchange_share_one_owner(core: Core) -> None:
    exchange = core.exchange(bytes(64))
    first = exchange.array(np.dtype(np.int64), (4,))
    second = exchange.array(np.dtype(np.uint8), (8, 4), offset=32)
    assert first.base is second.base
    assert second.ctypes.data == first.ctypes.data + 32
    second[:] = 1
    assert exchange.array(np.dtype(np.uint8), (64,)).sum() == 32
    exchange.reply(200, [], [])


def test_fortran_order_is_a_view(core: Core) -> None:
    exchange = core.exchange(floats(24).tobytes())
    array = exchange.array(np.dtype(np.float32), (2, 3, 4), fortran=True)
    assert array.flags.f_contiguous
    assert not array.flags.c_contiguous
    assert array.strides == (4, 8, 24)
    assert array.ctypes.data == address(exchange.body)
    np.testing.assert_array_equal(array, floats(24).reshape((2, 3, 4), order="F"))
    exchange.reply(200, [], [])


@pytest.mark.parametrize("fortran", [False, True])
def test_unaligned_data_is_copied(core: Core, fortran: bool) -> None:
    exchange = core.exchange(b"!" + floats(6).tobytes())
    array = exchange.array(np.dtype(np.float32), (2, 3), offset=1, fortran=fortran)
    assert array.flags.aligned
    assert array.flags.owndata
    assert array.flags.writeable
    np.testing.assert_array_equal(array, floats(6).reshape((2, 3), order="F" if fortran else "C"))
    array[:] = -1
    assert exchange.array(np.dtype(np.uint8), (25,))[1:5].tobytes() == np.float32(0).tobytes()
    exchange.reply(200, [], [])


@pytest.mark.parametrize(
    "dtype", ["S3", "V5", "U2", ">f8", "M8[s]", "f4,i2", "(2,2)u1", "?", "c16"]
)
def test_array_of_any_dtype_without_objects(core: Core, dtype: str) -> None:
    wanted = np.frombuffer(bytes(2) * 20 * np.dtype(dtype).itemsize, dtype).reshape(
        (40, *np.dtype(dtype).shape)
    )
    exchange = core.exchange(wanted.tobytes())
    np.testing.assert_array_equal(exchange.array(np.dtype(dtype), (40,)), wanted)
    exchange.reply(200, [], [])


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 2**40)])
def test_array_of_no_elements(core: Core, shape: tuple[int, ...]) -> None:
    exchange = core.exchange(b"")
    assert exchange.nbytes == 0
    assert exchange.array(np.dtype(np.float64), shape).shape == shape
    assert len(exchange.body) == 0
    exchange.reply(200, [], [])


@pytest.mark.parametrize(
    ("shape", "offset"),
    [
        ((17,), 0),
        ((16,), 1),
        ((), 65),
        ((0,), 65),
        ((1,), -1),
        ((-1,), 0),
        ((-4, -4), 0),
        ((2**62,), 0),
        ((2**32, 2**32), 0),
        ((2**31, 2**31, 4), 0),
        ((2**63,), 0),
        ((2**100,), 0),
        ((1,) * 100, 0),
    ],
)
def test_array_that_does_not_fit_is_refused(
    core: Core, shape: tuple[int, ...], offset: int
) -> None:
    exchange = core.exchange(bytes(64))
    with pytest.raises(ValueError, match=r"fit|dimensions"):
        exchange.array(np.dtype(np.float32), shape, offset)
    assert exchange.array(np.dtype(np.float32), (16,)).sum() == 0
    exchange.reply(200, [], [])


@pytest.mark.parametrize("dtype", ["O", "f4,O", "V0", "S0", "U0", "T"])
def test_array_of_objects_or_of_nothing_is_refused(core: Core, dtype: str) -> None:
    try:
        made = np.dtype(dtype)
    except TypeError:
        pytest.skip("this NumPy has no such dtype")
    exchange = core.exchange(bytes(64))
    with pytest.raises(TypeError):
        exchange.array(made, (1,))
    exchange.reply(200, [], [])


def test_array_outlives_reply_server_and_thread() -> None:
    with running() as core:
        exchange = core.exchange(floats(100_000).tobytes())
        array = exchange.array(np.dtype(np.float32), (100_000,))
        exchange.reply(200, [], [])
        del exchange
        assert core.read() == (200, b"")
        assert core.slots() == (1, 0)
    del core
    gc.collect()
    np.testing.assert_array_equal(array, floats(100_000))
    kept = [array]
    del array
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join(PATIENCE_S)
    assert kept == []


def test_memory_goes_back_with_the_last_reference(core: Core) -> None:
    exchange = core.exchange(bytes(1 << 20))
    array = exchange.array(np.dtype(np.uint8), (1 << 20,))
    view, memory = array[5:9], exchange.body
    exchange.reply(200, [], [])
    assert core.read() == (200, b"")
    del array, exchange
    assert core.slots() == (1, 0)
    del view
    assert core.slots() == (1, 0)
    del memory
    assert core.slots() == (0, 1)


def test_next_request_uses_warm_memory(core: Core) -> None:
    places = set()
    for _ in range(3):
        exchange = core.exchange(bytes(1 << 20))
        places.add(address(exchange.body))
        exchange.reply(200, [], [])
        assert core.read() == (200, b"")
    assert len(places) == 1


# ---- bytes()


def test_body_bytes_are_made_in_place(core: Core) -> None:
    text = json.dumps(list(range(1000))).encode()
    exchange = core.exchange(text)
    body = exchange.bytes()
    assert isinstance(body, bytes)
    assert address(body) % 64 == 0, "made in place, it lies where the slot does"
    assert core.slots() == (1, 0)
    assert body == text
    assert text == body
    assert hash(body) == hash(text)
    assert {text: 1}[body] == 1
    assert json.loads(body) == list(range(1000))
    assert body.decode() == text.decode()
    assert body[1:4] == text[1:4]
    assert type(body[1:4]) is bytes
    assert bytes(body) == text
    assert body + b"x" == text + b"x"
    assert repr(body) == repr(text)
    assert exchange.bytes() is body
    exchange.reply(200, [], [])
    assert core.read() == (200, b"")
    del exchange
    assert core.slots() == (1, 0)
    assert body == text
    del body
    assert core.slots() == (0, 1)


def test_array_from_body_bytes_shares_and_keeps_them(core: Core) -> None:
    exchange = core.exchange(floats(1000).tobytes())
    body = exchange.bytes()
    array = np.frombuffer(body, np.float32)
    assert array.ctypes.data == address(body)
    exchange.reply(200, [], [])
    assert core.read() == (200, b"")
    del exchange, body
    np.testing.assert_array_equal(array, floats(1000))
    assert core.slots() == (1, 0)
    del array
    assert core.slots() == (0, 1)


def test_body_bytes_pickle_and_copy_as_plain_bytes(core: Core) -> None:
    exchange = core.exchange(b"some bytes")
    body = exchange.bytes()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(body, protocol))
        assert (type(again), again) == (bytes, body)
    for again in (copy.copy(body), copy.deepcopy(body), copy.deepcopy([body])[0]):
        assert (type(again), again) == (bytes, body)
    exchange.reply(200, [], [])


def test_nobody_else_can_make_body_bytes(core: Core) -> None:
    """One without a slot below it would be freed as if it had one."""
    exchange = core.exchange(b"some bytes")
    body = exchange.bytes()
    kind = type(body)
    mine = type("Mine", (bytes,), {"__slots__": ()})  # laid out alike
    with pytest.raises(TypeError):
        kind(b"")
    with pytest.raises(TypeError):
        bytes.__new__(kind, b"")
    with pytest.raises(TypeError):
        kind.fromhex("00")
    with pytest.raises(TypeError):
        type("Derived", (kind,), {})
    with pytest.raises(TypeError):
        mine(b"x").__class__ = kind
    with pytest.raises(TypeError):
        body.__class__ = mine
    with pytest.raises(TypeError):
        object.__reduce_ex__(body, 2)[0](kind, b"")  # type: ignore[operator]
    exchange.reply(200, [], [])


def test_bytes_after_array_are_a_copy(core: Core) -> None:
    exchange = core.exchange(b"1234")
    array = exchange.array(np.dtype(np.uint8), (4,))
    body = exchange.bytes()
    array[0] = ord("x")
    assert body == b"1234"
    assert exchange.bytes() == b"x234"
    exchange.reply(200, [], [])


def test_array_after_bytes_is_a_copy(core: Core) -> None:
    exchange = core.exchange(b"1234")
    body = exchange.bytes()
    array = exchange.array(np.dtype(np.uint8), (4,))
    assert array.flags.writeable
    assert array.ctypes.data % 64 == 0
    assert array.ctypes.data == address(exchange.body)
    array[0] = ord("x")
    assert body == b"1234"
    assert exchange.bytes() is body
    assert bytes(exchange.body) == b"x234"
    exchange.reply(200, [], [])


@pytest.mark.parametrize("sent", [b"", b"q"])
def test_short_bodies_leave_the_interpreters_own_bytes_alone(core: Core, sent: bytes) -> None:
    exchange = core.exchange(sent)
    body = exchange.bytes()
    assert body == sent
    for i in range(len(sent)):
        exchange.body[i] = ord("!")
    del body
    assert exchange.bytes() == sent
    assert b"quiet"[0:1] == b"q"
    assert bytes([ord("q")]) == b"q"
    assert bytes(bytearray()) == b""
    exchange.reply(200, [], [])


# ---- reply(): from where it lies, or copied


class Base(np.ndarray[Any, Any]):
    pass


def fresh() -> npt.NDArray[np.uint8]:
    return np.full(LARGE, ord("a"), np.uint8)


def lent_by_bytearray(keep: list[Any]) -> Any:
    keep.append(bytearray(b"a" * LARGE))
    return np.frombuffer(keep[0], np.uint8)


def kept(keep: list[Any], made: Any) -> Any:
    keep.append(made)
    return made


def held_by(keep: list[Any], hold: Callable[[Any], Any]) -> Any:
    """A fresh array to send, and something else that leads to its memory."""
    made = fresh()
    keep.append(hold(made))
    return made


IN_PLACE: dict[str, Callable[[list[Any]], Any]] = {
    "bytes": lambda keep: b"a" * LARGE,
    "bytes held elsewhere": lambda keep: kept(keep, b"a" * LARGE),
    "fresh array": lambda keep: fresh(),
    "reshaped fresh array": lambda keep: fresh().reshape(1024, -1),
    "slice of a fresh array": lambda keep: np.full(LARGE + 9, ord("a"), np.uint8)[9:],
    "array over bytes": lambda keep: np.frombuffer(kept(keep, b"a" * LARGE), np.uint8),
}

COPIED: dict[str, Callable[[list[Any]], Any]] = {
    "array held elsewhere": lambda keep: kept(keep, fresh()),
    "view of an array held elsewhere": lambda keep: kept(keep, fresh())[:],
    "array whose view is held": lambda keep: held_by(keep, lambda made: made[:9]),
    "array whose buffer is held": lambda keep: held_by(keep, memoryview),
    "array with a weak reference": lambda keep: held_by(keep, weakref.ref),
    "array of a subclass": lambda keep: fresh().view(Base),
    "array over a bytearray": lent_by_bytearray,
    "bytearray": lambda keep: bytearray(b"a" * LARGE),
    "memoryview": lambda keep: memoryview(kept(keep, bytearray(b"a" * LARGE))),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_reply_is_sent_from_where_it_lies_when_nobody_can_change_it(core: Core, name: str) -> None:
    exchange = core.exchange()
    keep: list[Any] = []
    payload = [IN_PLACE[name](keep)]
    exchange.reply(200, [], payload)
    assert payload == []
    assert core.slots()[0] == 0, "no slot was taken for a copy"
    assert core.read() == (200, b"a" * LARGE)


@pytest.mark.parametrize("name", COPIED)
def test_reply_is_copied_when_somebody_could_change_it(core: Core, name: str) -> None:
    exchange = core.exchange()
    keep: list[Any] = []
    payload = [COPIED[name](keep)]
    exchange.reply(200, [], payload)
    assert payload == []
    assert core.slots()[0] == 1, "the slot of the copy"
    for held in keep:
        if isinstance(held, np.ndarray | memoryview | bytearray):
            np.frombuffer(held, np.uint8)[:] = ord("b")
    assert core.read() == (200, b"a" * LARGE)
    assert eventually(lambda: core.slots()[0] == 0)


@pytest.mark.parametrize("name", COPIED)
def test_borrowed_reply_is_sent_from_where_it_lies(core: Core, name: str) -> None:
    exchange = core.exchange()
    keep: list[Any] = []
    exchange.reply(200, [], [COPIED[name](keep)], borrow=True)
    assert core.slots()[0] == 0
    assert core.read() == (200, b"a" * LARGE)


def test_borrowed_memory_is_the_memory_that_is_sent(core: Core) -> None:
    """To write to it now breaks the promise; here it shows that nothing was copied."""
    array = fresh()
    core.exchange().reply(200, [], [array], borrow=True)
    array[-1] = ord("b")
    assert core.read() == (200, b"a" * (LARGE - 1) + b"b")


def test_borrowed_bytearray_keeps_its_memory_until_it_is_sent(core: Core) -> None:
    held = bytearray(b"a" * LARGE)
    core.exchange().reply(200, [], [held], borrow=True)
    with pytest.raises(BufferError):
        held.clear()
    assert core.read() == (200, b"a" * LARGE)

    def is_free() -> bool:
        try:
            held.clear()
        except BufferError:
            return False
        return True

    assert eventually(is_free)


def test_reply_with_its_own_input_is_sent_from_the_receive_buffer(core: Core) -> None:
    exchange = core.exchange(b"a" * LARGE)
    payload = [exchange.array(np.dtype(np.uint8), (LARGE,))]
    exchange.reply(200, [], payload)
    assert core.slots() == (1, 0), "a copy would have taken a second slot"
    assert core.read() == (200, b"a" * LARGE)
    assert eventually(lambda: core.slots()[0] == 0)


def test_reply_with_its_own_body_bytes_is_sent_from_the_receive_buffer(core: Core) -> None:
    exchange = core.exchange(b"a" * LARGE)
    exchange.reply(200, [], [exchange.bytes()])
    assert core.slots() == (1, 0)
    assert core.read() == (200, b"a" * LARGE)
    assert eventually(lambda: core.slots()[0] == 0)


def test_reply_with_its_own_input_is_copied_while_its_body_is_held(core: Core) -> None:
    exchange = core.exchange(b"a" * LARGE)
    body = exchange.body
    exchange.reply(200, [], [exchange.array(np.dtype(np.uint8), (LARGE,))])
    body[:] = b"b" * LARGE
    assert core.read() == (200, b"a" * LARGE)


def test_same_output_array_every_time_is_never_torn(core: Core) -> None:
    output = fresh()
    for value in b"abc":
        output[:] = value
        core.exchange().reply(200, [], [output])
        output[:] = ord("z")
        assert core.read() == (200, bytes([value]) * LARGE)


def test_sent_memory_is_let_go(core: Core) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        core.exchange().reply(200, [], [fresh()])
        assert tracemalloc.get_traced_memory()[0] - before > LARGE // 2, "kept while it is sent"
        response = core.client.getresponse()
        while response.read(1 << 20):
            pass
        assert eventually(lambda: tracemalloc.get_traced_memory()[0] - before < LARGE // 2)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])
@pytest.mark.parametrize("make", [bytes, bytearray, lambda text: np.frombuffer(text, np.uint8)])
def test_replies_around_the_size_that_is_copied(core: Core, size: int, make: Any) -> None:
    exchange = core.exchange()
    exchange.reply(200, [(b"X-Size", str(size).encode())], [make(b"y" * size)])
    response = core.client.getresponse()
    assert response.getheader("X-Size") == str(size)
    assert response.read() == b"y" * size


def test_reply_of_a_client_that_left_is_let_go(core: Core) -> None:
    held = bytearray(LARGE)
    exchange = core.exchange()
    core.client.close()
    exchange.reply(200, [], [held], borrow=True)

    def is_free() -> bool:
        try:
            held.clear()
        except BufferError:
            return False
        return True

    assert eventually(is_free)


# ---- reply(): what it refuses


def strided() -> npt.NDArray[np.uint8]:
    return np.zeros(100, np.uint8)[::2]


REFUSED: dict[str, tuple[type[Exception], int, Any, list[Any]]] = {
    "a number": (TypeError, 200, [], [1]),
    "a str": (TypeError, 200, [], ["text"]),
    "an array of objects": (TypeError, 200, [], [np.array([None])]),
    "a strided array": (BufferError, 200, [], [strided()]),
    "a Fortran array": (BufferError, 200, [], [np.zeros((2, 3), order="F")]),
    "a strided memoryview": (BufferError, 200, [], [memoryview(bytes(100))[::2]]),
    "a body with 204": (ValueError, 204, [], [b"1"]),
    "a body with 304": (ValueError, 304, [], [b"1"]),
    "status 199": (ValueError, 199, [], [b"1"]),
    "status 600": (ValueError, 600, [], [b"1"]),
    "a header of str": (TypeError, 200, [("X-A", "1")], [b"1"]),
    "a header of one": (TypeError, 200, [(b"X-A",)], [b"1"]),
    "headers that are none": (TypeError, 200, 5, [b"1"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_reply_leaves_payload_and_exchange_as_they_were(core: Core, name: str) -> None:
    error, status, headers, payload = REFUSED[name]
    before = list(payload)
    exchange = core.exchange(b"body")
    with pytest.raises(error):
        exchange.reply(status, headers, payload)
    assert len(payload) == len(before)
    assert all(now is then for now, then in zip(payload, before, strict=True))
    assert exchange.bytes() == b"body"
    exchange.reply(201, [], [b"fine"])
    assert core.read() == (201, b"fine")


def test_payload_must_be_a_list(core: Core) -> None:
    exchange = core.exchange()
    with pytest.raises(TypeError):
        exchange.reply(200, [], (b"1",))  # type: ignore[arg-type]
    exchange.reply(204, [], [])
    assert core.read() == (204, b"")


def test_second_reply_and_whatever_else_comes_late_is_refused(core: Core) -> None:
    exchange = core.exchange(b"body")
    exchange.reply(200, [], [])
    payload = [b"again"]
    with pytest.raises(RuntimeError):
        exchange.reply(200, [], payload)
    assert payload == [b"again"]
    for late in (
        lambda: exchange.array(np.dtype(np.uint8), (4,)),
        lambda: exchange.bytes(),
        lambda: exchange.body,
        lambda: exchange.headers,
        lambda: exchange.header("host"),
        lambda: exchange.method,
        lambda: exchange.path,
        lambda: exchange.query,
        lambda: exchange.client,
        lambda: exchange.is_disconnected(),
    ):
        with pytest.raises(RuntimeError):
            late()
    assert core.read() == (200, b"")


def collecting(call: Callable[[], Any], meanwhile: Callable[[], Any]) -> Any:
    """Call it with garbage collected inside, and something else done then. Returns its result, None
    where it raises RuntimeError. From Python 3.12 on that can't happen: nothing to test.

    Python 3.11 collects inside C code that makes a list or a tuple, and what it finds may run any
    code, or let another thread run. Pairs have to be made anew; what has three items does not, so
    that it isn't the arguments where it happens.
    """
    if sys.version_info >= (3, 12):
        pytest.skip("garbage is collected between bytecodes only")
    said: list[str] = []

    def collected(phase: str, info: dict[str, int]) -> None:
        if not said:
            said.append(phase)
            with suppress(RuntimeError):
                meanwhile()

    gc.disable()
    thresholds = gc.get_threshold()
    gc.callbacks.append(collected)
    kept: list[Any] = [(index, index) for index in range(6000)]
    kept += [[] for _ in range(300)]
    del [(index, index, index) for index in range(100)][:]
    gc.set_threshold(1)
    try:
        gc.enable()
        return call()
    except RuntimeError:
        return None
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)
        gc.enable()
        assert said, "nothing was collected"


def test_an_answer_in_the_middle_of_reading_the_headers(core: Core) -> None:
    fields = {f"X-Field-{index}": f"value {index}" for index in range(80)}
    exchange = core.exchange(b"body", **fields)
    said = collecting(lambda: exchange.headers, lambda: exchange.reply(200, [], [b"meanwhile"]))
    if said is not None:
        assert fields.items() <= {name.title(): value for name, value in said}.items()
        exchange.reply(200, [], [b"meanwhile"])
    assert core.read() == (200, b"meanwhile")


def test_an_answer_in_the_middle_of_another(core: Core) -> None:
    """One of them is sent, whole, and the connection goes on."""
    for _ in range(3):
        exchange = core.exchange(b"body")
        payload = [bytes(5000), bytes(5001)]
        answer, fields = exchange.reply, ()
        collecting(
            lambda: answer(200, fields, payload),  # noqa: B023
            lambda: answer(200, fields, [b"meanwhile"]),  # noqa: B023
        )
        assert core.read() in ((200, b"meanwhile"), (200, bytes(10_001)))


def test_memory_that_is_taken_while_a_reply_is_put_together(core: Core) -> None:
    """Whether anybody else has an array is decided when nobody can get at it any more."""
    exchange = core.exchange(b"body" * (LARGE // 4))
    bodies: list[memoryview] = []
    payload: list[Any] = [exchange.array(np.dtype(np.uint8), (LARGE,)), bytes(5000)]
    answer, fields = exchange.reply, ()
    collecting(lambda: answer(200, fields, payload), lambda: bodies.append(exchange.body))
    for body in bodies:
        body[:] = bytes(LARGE)
    assert core.read() == (200, b"body" * (LARGE // 4) + bytes(5000))


def test_dropped_exchange_answers_500(core: Core) -> None:
    exchange = core.exchange(b"body")
    array = exchange.array(np.dtype(np.uint8), (4,))
    del exchange
    status, body = core.read()
    assert status == 500
    assert list(json.loads(body)) == ["error"]
    assert array.tobytes() == b"body"
    assert eventually(lambda: core.server.stats()["running"] == 0)


# ---- the head


def test_head_is_told_as_it_came(core: Core) -> None:
    core.client.request(
        "POST",
        "/predict?a=%20b",
        b"{}",
        {"X-Twice": "caf\xe9", "x-twice ".strip().upper(): "2", "Content-Type": "application/json"},
    )
    exchange = core.take()
    assert exchange.method == "POST"
    assert exchange.path == "/predict"
    assert exchange.query == "a=%20b"
    assert exchange.kind == _core.BODY_JSON
    assert exchange.route == 0
    assert exchange.client.startswith("127.0.0.1:")
    assert exchange.header("x-twice") == "caf\xe9, 2"
    assert exchange.header("content-length") == "2"
    assert exchange.header("x-none") is None
    assert ("content-type", "application/json") in exchange.headers
    assert [name for name, _ in exchange.headers if name == "x-twice"] == ["x-twice"] * 2
    assert not exchange.is_disconnected()
    exchange.reply(200, [], [])


# ---- references


def test_references_do_not_grow(core: Core) -> None:
    """Three rounds of a thousand requests that take every road through the extension."""
    shared = np.zeros(5000, np.uint8)

    def answer(number: int) -> list[Any]:
        exchange = core.exchange(bytes(5000))
        headers = [(b"X-Number", b"%d" % number)]
        match number % 8:
            case 0:
                exchange.reply(200, headers, [exchange.array(np.dtype(np.uint8), (5000,))])
            case 1:
                exchange.reply(200, headers, [exchange.bytes()])
            case 2:
                exchange.reply(200, headers, [shared])
            case 3:
                exchange.reply(200, headers, [exchange.body], borrow=True)
            case 4:
                exchange.bytes()
                exchange.reply(200, headers, [exchange.array(np.dtype(np.uint8), (10,)).copy()])
            case 5:
                with pytest.raises(TypeError):
                    exchange.reply(200, headers, [exchange.headers])
            case 6:
                with pytest.raises(ValueError, match="fit"):
                    exchange.array(np.dtype(np.uint8), (5001,))
                exchange.reply(204, [], [])
            case 7:
                exchange.reply(200, headers, [np.zeros(6000, np.uint8)])
        del exchange
        core.read()
        return headers

    def round_of(count: int) -> tuple[int, int]:
        for number in range(count):
            answer(number)
        assert eventually(lambda: core.slots()[0] == 0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects())

    tracemalloc.start()
    try:
        round_of(200)
        rounds = [round_of(1000) for _ in range(3)]
    finally:
        tracemalloc.stop()
    assert rounds[2][0] - rounds[0][0] < 20_000, rounds
    assert rounds[2][1] - rounds[0][1] < 100, rounds


# ---- life cycle


def test_server_collected_while_it_runs_ends_its_threads() -> None:
    before = set(os.listdir("/proc/self/task"))
    server = make_server()
    server.listen_tcp("127.0.0.1", 0)
    server.start()
    assert set(os.listdir("/proc/self/task")) != before
    del server
    gc.collect()
    assert eventually(lambda: set(os.listdir("/proc/self/task")) <= before)


def test_server_never_started_is_just_freed() -> None:
    server = make_server()
    server.listen_tcp("127.0.0.1", 0)
    assert server.join(0)
    del server


def test_setting_up_after_start_is_refused(core: Core) -> None:
    for late in (
        lambda: core.server.listen_tcp("127.0.0.1", 0),
        lambda: core.server.listen_unix("/nonexistent", 0o600),
        lambda: core.server.listen_fd(0),
        lambda: core.server.watch_signals(0, 0),
        lambda: core.server.start(),
    ):
        with pytest.raises(RuntimeError):
            late()


def test_address_in_use_and_unknown_host_are_oserrors(core: Core) -> None:
    server = make_server()
    with pytest.raises(OSError, match="in use") as caught:
        server.listen_tcp("127.0.0.1", core.port)
    assert caught.value.errno is not None
    with pytest.raises(OSError, match=r"[Nn]ame|address"):
        server.listen_tcp("no.such.host.invalid", 0)
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=r"^port must be"):
            server.listen_tcp("127.0.0.1", port)


def test_join_times_out_and_lets_signal_handlers_run(core: Core) -> None:
    assert core.server.join(0) is False
    assert core.server.join(0.01) is False

    def on_alarm(number: int, frame: Any) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            core.server.join(PATIENCE_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e300])
def test_join_refuses_what_is_no_time(core: Core, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be"):
        core.server.join(timeout)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_request_body_size", -1),
        ("max_request_body_size", 2**64),
        ("max_inflight_bytes", 0),
        ("max_queued_requests", 0),
        ("limit_concurrency", 0),
        ("min_data_rate", -5),
        ("timeout_head", 0),
        ("timeout_read", float("nan")),
        ("timeout_write", -0.5),
        ("timeout_keep_alive", float("inf")),
        ("timeout_queue", 1e12),
        ("timeout_graceful_shutdown", -1),
    ],
)
def test_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be "):
        make_server(**{option: value})


def test_wrong_arguments_of_server_and_route_are_refused() -> None:
    with pytest.raises(TypeError, match="Route"):
        _core.Server([object()], **OPTIONS)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        _core.Server([])  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        make_server(limit_concurrency=1.5)
    with pytest.raises(TypeError):
        make_server(timeout_head="1")
    with pytest.raises(ValueError, match="null"):
        make_route("/a\0b")
    with pytest.raises(TypeError):
        _core.Exchange()
    assert make_route("/a").path == "/a"


def child_status(server: _core.Server, kept: list[Any]) -> int:
    """What the child of a fork finds: 0 when all is refused and all memory intact."""
    exchange, array = kept
    server.after_fork_in_child()
    calls: list[Callable[[], Any]] = [
        server.take,
        server.reap,
        server.stats,
        server.stop,
        server.start,
        server.set_ready,
        server.drain,
        server.join,
        lambda: server.draining,
        lambda: exchange.reply(200, [], [b"from the child"]),
        lambda: exchange.body,
    ]
    for call in calls:
        try:
            call()
        except RuntimeError:
            continue
        return 2
    if array.tobytes() != b"body" * 100_000:
        return 3
    kept.clear()
    server.after_fork_in_child()
    return 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_fork_can_drop_everything_and_disturbs_nobody(core: Core) -> None:
    kept: list[Any] = [core.exchange(b"body" * 100_000)]
    kept.append(kept[0].array(np.dtype(np.uint8), (400_000,)))
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE_S))  # a lock that nobody will ever release ends it
        status = 1
        try:
            status = child_status(core.server, kept)
            del core.server
            gc.collect()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    payload = [kept.pop()]
    kept.pop().reply(200, [], payload)
    assert core.read() == (200, b"body" * 100_000)
    core.exchange(b"next").reply(200, [], [b"fine"])
    assert core.read() == (200, b"fine")
