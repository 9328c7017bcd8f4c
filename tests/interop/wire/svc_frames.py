# SPDX-License-Identifier: Apache-2.0
"""The bytes of svc frames, version 1, written from docs/wire.md alone."""

import dataclasses
import struct

MAGIC = b"\xf5svc"
PART, RESET, DRAIN, PING, PONG, WINDOW = range(1, 7)
HEADERS, MESSAGE, END, MORE = 1, 2, 4, 8
NOT_RUN = 8  # of RESET
GRANT = 1  # of WINDOW
FRAME = struct.Struct("<IBBHII")
HELLO = struct.Struct("<4sBBHIIIIII")
FLAGS = {PART: 15, RESET: NOT_RUN, DRAIN: 0, PING: 0, PONG: 0, WINDOW: GRANT}
CONTROL_MAX = 1024
PIECE_MIN = 16384
ALL = 0xFFFFFFFF


class Violation(Exception):
    """The peer broke the protocol."""


@dataclasses.dataclass
class Hello:
    """What a side says of itself; `rest` is what a longer one ends with."""

    newest: int = 1
    oldest: int = 1
    max_message: int = 64 << 20
    max_streams: int = 4096
    stream_window: int = 512 << 10
    connection_window: int = 4 << 20
    piece: int = 64 << 10
    features: int = 0
    rest: bytes = b""

    def encode(self):
        """The bytes of the hello."""
        return HELLO.pack(
            MAGIC, self.newest, self.oldest, HELLO.size + len(self.rest),
            self.max_message, self.max_streams, self.stream_window,
            self.connection_window, self.piece, self.features,
        ) + self.rest  # fmt: skip

    @classmethod
    def read(cls, read):
        """Reads one by read(count), which returns so many bytes."""
        magic, newest, oldest, size, *numbers = HELLO.unpack(read(HELLO.size))
        if magic != MAGIC or not HELLO.size <= size <= 1024:
            raise Violation("no hello")
        hello = cls(newest, oldest, *numbers, read(size - HELLO.size))
        if min(newest, 1) < max(oldest, 1):
            raise Violation(f"versions {oldest} to {newest}")
        if min(hello.stream_window, hello.connection_window) < 256:
            raise Violation("window too small")
        if hello.piece < PIECE_MIN:
            raise Violation("piece too small")
        return hello


@dataclasses.dataclass
class Frame:
    """One frame; `head` and `body` are bytes."""

    type: int
    flags: int = 0
    stream: int = 0
    value: int = 0
    head: bytes = b""
    body: bytes = b""

    @property
    def cost(self):
        """What it takes of the credit."""
        if self.type != PART:
            return 0
        return FRAME.size + len(self.head) + len(self.body)

    def encode(self):
        """The bytes of the frame."""
        return FRAME.pack(
            len(self.head) + len(self.body), self.type, self.flags,
            len(self.head), self.stream, self.value,
        ) + self.head + self.body  # fmt: skip

    @classmethod
    def read(cls, read, piece):
        """Reads one by read(count), whose body has up to `piece` bytes."""
        size, kind, flags, head, stream, value = FRAME.unpack(read(FRAME.size))
        limit = piece if kind == PART else CONTROL_MAX
        if kind not in FLAGS or flags & ~FLAGS[kind] or head > size:
            raise Violation(f"frame {kind} with flags {flags}")
        if size - head > limit or (kind != PART and head > 0):
            raise Violation(f"frame {kind} of {size} bytes")
        if stream == 0 and kind in (PART, RESET):
            raise Violation("stream 0")
        return cls(kind, flags, stream, value, read(head), read(size - head))


def texts_encode(texts):
    """Texts as a head has them."""
    parts = (text.encode() for text in texts)
    return b"".join(struct.pack("<H", len(p)) + p + b"\0" for p in parts)


def texts_decode(head):
    """The texts of a head."""
    texts, at = [], 0
    while at < len(head):
        if at + 3 > len(head):
            raise Violation("head cut short")
        (size,) = struct.unpack_from("<H", head, at)
        text, at = head[at + 2 : at + 2 + size], at + size + 3
        if at > len(head) or head[at - 1] != 0 or 0 in text:
            raise Violation("text without its end")
        texts.append(text.decode(errors="replace"))
    return texts


def pairs_decode(texts):
    """Names and values in turn as a dictionary, names in lower case."""
    if len(texts) % 2 or len(texts) > 512:
        raise Violation("headers that are no pairs")
    return {k.lower(): v for k, v in zip(texts[::2], texts[1::2], strict=True)}


def flat(pairs):
    """Names and values in turn."""
    return [text for pair in dict(pairs).items() for text in pair]
