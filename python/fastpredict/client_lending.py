"""Bodies and answers that never cross the socket: what is lent in a call, and how the head says it.

The protocol is docs/memory.md's: a descriptor goes along with the request's head, which names a
range of it for the body, one for the answer, or both.
"""

from __future__ import annotations

import array
import re
import socket
import threading
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fastpredict.client_codec import Array, Body, Field, Receiver, bytes_of
from fastpredict.client_errors import BadResponse
from fastpredict.client_infer import HEADER_LENGTH
from fastpredict.client_memory import Arena, Range
from fastpredict.client_transport import Outgoing
from fastpredict.client_wire import AnswerHead, Sink

FIELD: Final = "Fastpredict-Memfd"
ANSWER_FIELD: Final = "Fastpredict-Answer-Memfd"

# Measured, see docs/memory.md: from here on lending is faster than the socket.
LENT_BYTES_MIN: Final = 128 << 10  # of memory that lies in the arena
COPIED_BYTES_MIN: Final = 512 << 10  # of memory that has to be copied there, or from there

_QUESTION_BYTES: Final = 16 << 10
_SPARE_BYTES: Final = 1 << 10
_SIZES_MAX: Final = 256
_RANGE = re.compile(r"offset=([0-9]{1,19});[\t ]*length=([0-9]{1,19})")


class Expected(NamedTuple):
    """An answer as the last one was: bytes in all, and of JSON before the first tensor."""

    nbytes: int
    ahead: int


_UNKNOWN: Final = Expected(0, 0)


class Lender:
    """What a client lends: the arena, and what it has learnt of the answers. Any thread."""

    def __init__(self, always: bool) -> None:
        self.arena = Arena()
        self.always = always
        self._lock = threading.Lock()
        # Of the last answer, for each target; the latest last.
        self._sizes: dict[str, Expected] = {}

    def loan(self, target: str, body: Body, out: Array | None = None) -> Loan | None:
        """What of a call is lent, or None where the socket is faster, as far as can be told."""
        answer_bytes = self.expected(target).nbytes if out is None else out.nbytes
        if max(body.nbytes, answer_bytes) < (1 if self.always else LENT_BYTES_MIN):
            return None
        loan = Loan(self, target, body, out)
        return loan if loan.wanted else None

    def question(self, target: str) -> Loan:
        """Room for a short answer, which shows whether the server takes memory."""
        loan = Loan(self, target, Body((), ()), None)
        loan.offer(_QUESTION_BYTES)
        return loan

    def expected(self, target: str) -> Expected:
        """What the last answer there was like."""
        return self._sizes.get(target, _UNKNOWN)

    def learn(self, target: str, head: AnswerHead, lent_bytes: int = 0) -> None:
        """Remember how large an answer was, where the next one may better be lent room."""
        text = head.headers.get(HEADER_LENGTH.lower(), "0")
        ahead = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        seen = Expected(lent_bytes or head.length or 0, ahead)
        if not head.ok or self.expected(target) == seen:
            return
        # Not worth waiting for, and for ever in a child that was forked at the wrong moment.
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._sizes.pop(target, None)
            self._sizes[target] = seen
            if len(self._sizes) > _SIZES_MAX:
                del self._sizes[next(iter(self._sizes))]
        finally:
            self._lock.release()


class Loan:
    """What of one call is lent: its body, room for its answer, or both, as far as it pays.

    The body is copied where it doesn't lie in the arena, once for all attempts. ``out`` takes the
    answer itself where it can, else the answer is copied there.
    """

    def __init__(self, lender: Lender, target: str, body: Body, out: Array | None) -> None:
        self._lender = lender
        self._target = target
        self._body = body
        self._octets = [np.frombuffer(piece, np.uint8) for piece in body.pieces if len(piece)]
        last = lender.arena.find(self._octets[-1]) if self._octets else None
        self._last = last
        self._lends_body = self._pays(body.nbytes, last is not None)
        self._out = None if out is None else np.frombuffer(bytes_of(out), np.uint8)
        self._out_range = self._direct_out()
        self._room_bytes = self._expected()
        self._placed: Range | None = None
        self._copy: Array | None = None  # keeps the block
        self._lead: Range | None = None
        self._room: Range | None = None
        self._room_octets: npt.NDArray[np.uint8] | None = None

    @property
    def wanted(self) -> bool:
        """Whether lending is faster than the socket, as far as can be told."""
        return self._lends_body or self._room_bytes > 0

    @property
    def insists(self) -> bool:
        """Whether the socket is no way out."""
        return self._lender.always

    def offer(self, nbytes: int) -> None:
        """Offer so much room, whatever is expected."""
        self._room_bytes = nbytes

    def _pays(self, nbytes: int, in_place: bool) -> bool:
        least = LENT_BYTES_MIN if in_place else COPIED_BYTES_MIN
        return nbytes >= (1 if self._lender.always else least)

    def _direct_out(self) -> Range | None:
        """Where ``out`` lies in the arena; not where the body does, too: they may not overlap."""
        if self._out is None or not self._out.nbytes:
            return None
        found = self._lender.arena.find(self._out)
        if found is None or any(np.may_share_memory(self._out, each) for each in self._octets):
            return None
        return found

    def _expected(self) -> int:
        """How much room to offer; 0 for none."""
        copies = self._out is not None and self._out_range is None
        if self._out is not None:
            nbytes = self._out.nbytes
        else:
            known = self._lender.expected(self._target)
            # Of an answer that isn't known yet: many are as large as what was asked.
            nbytes = known.nbytes if known is not _UNKNOWN else self._body.nbytes * self._lends_body
        return nbytes if self._pays(nbytes, not copies) else 0

    # ---- the request -----------------------------------------------------------------------------

    def outgoing(self) -> Outgoing:
        """Say how the request goes out, now that it is sure that the server takes memory."""
        fields: list[Field] = list(self._body.fields)
        descriptors: list[int] = []
        pieces = self._body.pieces
        if self._lends_body and self._place_body():
            assert self._placed is not None
            fields.append(_field(FIELD, self._placed))
            descriptors.append(self._placed.segment.fd)
            pieces = ()
        if self._room_bytes and self._make_room():
            assert self._room is not None
            fields.append(_field(ANSWER_FIELD, self._room))
            if self._room.segment.fd not in descriptors:
                descriptors.append(self._room.segment.fd)
        ancillary = []
        if descriptors:
            rights = array.array("i", descriptors).tobytes()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        nbytes = sum(len(piece) for piece in pieces)
        return Outgoing(tuple(fields), list(pieces), nbytes, ancillary)

    def _place_body(self) -> bool:
        """Find or make the body in the arena."""
        if self._placed is None:
            self._placed = self._in_place() or self._copied()
        return self._placed is not None

    def _in_place(self) -> Range | None:
        """An array in the arena, and what precedes it in the room before its block."""
        if self._last is None or len(self._octets) == 1:
            return self._last
        head = b"".join(each.tobytes() for each in self._octets[:-1]) if self._is_short() else None
        if head is None:
            return None
        placed = self._lender.arena.take_lead(self._last, head)
        if placed is not None:
            self._lead = self._last
        return placed

    def _is_short(self) -> bool:
        return self._body.nbytes - self._octets[-1].nbytes <= LENT_BYTES_MIN

    def _copied(self) -> Range | None:
        block = self._lender.arena.octets(self._body.nbytes)
        if block is None:
            return None
        at = 0
        for each in self._octets:
            block[at : at + each.nbytes] = each
            at += each.nbytes
        self._copy = block
        return self._lender.arena.find(block)

    def _make_room(self) -> bool:
        if self._out_range is not None:
            self._room, self._room_octets = self._out_range, self._out
        elif self._room is None:
            # A little more, for answers that differ a little; and so that a tensor is aligned.
            shift = -self._lender.expected(self._target).ahead % 64
            octets = self._lender.arena.octets(shift + self._room_bytes + _SPARE_BYTES)
            if octets is None:
                return False
            octets = octets[shift:]
            found = self._lender.arena.find(octets)
            assert found is not None
            self._room, self._room_octets = found, octets
        return True

    # ---- the answer ------------------------------------------------------------------------------

    def begin(self, receiver: Receiver[Any], head: AnswerHead) -> Sink:
        """Say where the body goes, or give the receiver the one that lies in the room."""
        value = head.headers.get(FIELD.lower())
        if value is None:
            self._lender.learn(self._target, head)
            return receiver.begin(head)
        said = _RANGE.fullmatch(value)
        room, octets = self._room, self._room_octets
        if (
            said is None
            or room is None
            or octets is None
            or int(said[1]) != room.offset
            or int(said[2]) > room.nbytes
            or head.length != 0
        ):
            raise BadResponse(f"the answer is said to lie in memory at {value[:60]!r}")
        nbytes = int(said[2])
        self._lender.learn(self._target, head, nbytes)
        return receiver.begin(head, self._own(octets[:nbytes]))

    def _own(self, lent: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A small answer to a guess isn't worth a block of its own."""
        is_small = self._out is None and lent.nbytes < LENT_BYTES_MIN
        return lent.copy() if is_small else lent

    # ---- the end ---------------------------------------------------------------------------------

    def done(self) -> None:
        """The whole answer has come: all of it is the client's own again."""
        if self._lead is not None:
            self._lender.arena.give_lead(self._lead)
        self._lead = self._placed = self._copy = None
        self._room = self._room_octets = None

    def failed(self) -> None:
        """The server may still be at it: nothing of these segments is handed out again."""
        for each in (self._placed, self._room):
            if each is not None:
                self._lender.arena.retire(each.segment)
        self._room = self._room_octets = None


def _field(name: str, where: Range) -> Field:
    return name.encode("ascii"), b"offset=%d; length=%d" % (where.offset, where.nbytes)
