"""The refused chunks of the framing table: see framing_table.py."""

from __future__ import annotations

from framing_table import CHUNK, chunks, gather, refused

CHUNKS = gather(
    refused(
        "9112 7.1 chunk-size",
        CHUNK,
        ("no hex", chunks(b"5g\r\nhello\r\n0\r\n\r\n")),
        ("no digit at all", chunks(b"g\r\nhello\r\n0\r\n\r\n")),
        ("0x5", chunks(b"0x5\r\nhello\r\n0\r\n\r\n")),
        ("-5", chunks(b"-5\r\nhello\r\n0\r\n\r\n")),
        ("+5", chunks(b"+5\r\nhello\r\n0\r\n\r\n")),
        ("5_", chunks(b"5_\r\nhello\r\n0\r\n\r\n")),
        ("empty", chunks(b"\r\nhello\r\n0\r\n\r\n")),
        ("only an extension", chunks(b";a\r\nhello\r\n0\r\n\r\n")),
        ("space in front", chunks(b" 5\r\nhello\r\n0\r\n\r\n")),
        ("space behind", chunks(b"5 \r\nhello\r\n0\r\n\r\n")),
        ("tab behind", chunks(b"5\t\r\nhello\r\n0\r\n\r\n")),
        ("space within", chunks(b"0 5\r\nhello\r\n0\r\n\r\n")),
        ("NUL behind", chunks(b"5\0\r\nhello\r\n0\r\n\r\n")),
        ("17 digits", chunks(b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n")),
        ("2^64 - 1", chunks(b"f" * 16 + b"\r\nhello\r\n0\r\n\r\n")),
        ("2^64 + 5", chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("the last of them", chunks(b"5\r\nhello\r\n0g\r\n\r\n")),
    ),
    refused(
        "9112 7.1 lines",
        CHUNK,
        ("LF behind the size", chunks(b"5\nhello\r\n0\r\n\r\n")),
        ("CR behind the size", chunks(b"5\rhello\r\n0\r\n\r\n")),
        ("CR CR LF behind the size", chunks(b"5\r\r\nhello\r\n0\r\n\r\n")),
        ("LF behind the data", chunks(b"5\r\nhello\n0\r\n\r\n")),
        ("CR behind the data", chunks(b"5\r\nhello\r0\r\n\r\n")),
        ("nothing behind the data", chunks(b"5\r\nhello0\r\n\r\n")),
        ("an empty line more", chunks(b"5\r\nhello\r\n\r\n0\r\n\r\n")),
        ("data longer than its size", chunks(b"4\r\nhello\r\n0\r\n\r\n")),
        ("data shorter than its size", chunks(b"6\r\nhello\r\n0\r\n\r\n")),
        ("LF behind the last size", chunks(b"5\r\nhello\r\n0\n\r\n")),
        ("LF at the end", chunks(b"5\r\nhello\r\n0\r\n\n")),
        ("CR at the end", chunks(b"5\r\nhello\r\n0\r\n\rX")),
    ),
    refused(
        "9112 7.1.1",
        CHUNK,
        ("LF", chunks(b"5;a\n\r\nhello\r\n0\r\n\r\n")),
        ("CR", chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
        ("NUL", chunks(b"5;a\0\r\nhello\r\n0\r\n\r\n")),
        ("DEL", chunks(b"5;a=\x7f\r\nhello\r\n0\r\n\r\n")),
        ("LF in quotes", chunks(b'5;a="\n"\r\nhello\r\n0\r\n\r\n')),
        ("no semicolon", chunks(b"5 a\r\nhello\r\n0\r\n\r\n")),
        ("of the last chunk", chunks(b"5\r\nhello\r\n0;\x01\r\n\r\n")),
    ),
    refused(
        "9112 7.1.2 and 5.5 of 9110",
        CHUNK,
        ("NUL", chunks(b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n")),
        ("CR", chunks(b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n")),
        ("LF", chunks(b"5\r\nhello\r\n0\r\nX: a\n\r\n")),
        ("folded", chunks(b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n")),
        ("a blank in front", chunks(b"5\r\nhello\r\n0\r\n X: a\r\n\r\n")),
    ),
)

#: A trailer is a field like those of the head (9112 7.1.2: trailer-section = *( field-line CRLF )).
TRAILERS = refused(
    "9112 7.1.2 trailers are fields",
    CHUNK,
    ("no colon", chunks(b"5\r\nhello\r\n0\r\nX\r\n\r\n")),
    ("a request", chunks(b"5\r\nhello\r\n0\r\nPOST /behind HTTP/1.1\r\nHost: t\r\n\r\n")),
    ("empty name", chunks(b"5\r\nhello\r\n0\r\n: a\r\n\r\n")),
    ("space before the colon", chunks(b"5\r\nhello\r\n0\r\nX : a\r\n\r\n")),
    ("no token", chunks(b"5\r\nhello\r\n0\r\nX(): a\r\n\r\n")),
    ("a high byte", chunks(b"5\r\nhello\r\n0\r\nX\xff: a\r\n\r\n")),
)
