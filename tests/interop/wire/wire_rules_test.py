# SPDX-License-Identifier: Apache-2.0
"""What docs/wire.md says of greeting, breaking the protocol, limits and ending."""

import contextlib
import subprocess
import tempfile
import unittest

from svc_frames import (
    ALL, DRAIN, END, FRAME, HEADERS, MESSAGE, MORE, NOT_RUN, PART, PING, PONG,
    RESET, WINDOW, Frame, Hello, flat, texts_encode,
)  # fmt: skip
from svc_peer import Failure, Server
from wire_case import (
    BIN, EXHAUSTED, INVALID, PATIENCE, Service, joined, request,
)  # fmt: skip


def head(*texts):
    """The bytes of a first part with these texts."""
    return joined(Frame(PART, HEADERS, 1, 0, texts_encode(texts)))


class HelloTest(unittest.TestCase):
    """Hellos that svc takes, and others."""

    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(Service("--handshake_timeout=1s"))

    def test_taken(self):
        for hello in (
            Hello(newest=2), Hello(newest=255, oldest=0), Hello(rest=bytes(992)),
            Hello(features=ALL), Hello(max_message=0, max_streams=0),
            Hello(stream_window=256, connection_window=256, piece=16384),
            Hello(stream_window=ALL, connection_window=ALL, piece=ALL),
        ):  # fmt: skip
            with self.subTest(hello), self.service.connection(hello) as c:
                self.assertEqual(c.call("wire", "Wire.Echo", b"")[0], b"")
                self.assertEqual(c.peer.rest, b"")

    def test_refused(self):
        size = Hello().encode()
        for name, hello in {
            "too new": Hello(newest=2, oldest=2).encode(),
            "too old": Hello(newest=0, oldest=0).encode(),
            "longer than 1,024": Hello(rest=bytes(993)).encode(),
            "shorter than 32": size[:6] + b"\x1f\0" + size[8:],
            "small stream window": Hello(stream_window=255).encode(),
            "small connection window": Hello(connection_window=255).encode(),
            "small piece": Hello(piece=16383).encode(),
            "another protocol": b"GET / HTTP/1.1\r\n\r\n",
            "one byte that differs": b"\xf5svd" + size[4:],
            "half a hello": size[:20],
            "nothing": b"",
        }.items():
            with self.subTest(name), self.service.raw(hello) as raw:
                self.assertEqual(raw.until_end(), [])

    def test_client(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as nodes:
            server = Server({}, Hello(newest=3, oldest=2))
            nodes.write(f"wire: 127.0.0.1:{server.port}\n")
            nodes.flush()
            done = subprocess.run([BIN / "svc", "call", "wire", "Wire.Echo", "{}",
                "--registry=static", f"--registry_address={nodes.name}"],
                capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("versions 2 to 3", done.stderr)
            server.close()


class ViolationTest(unittest.TestCase):
    """What breaks the protocol, and what only looks as if."""

    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(Service())

    def test_closed(self):
        begin = request(1, "Wire.Each", flags=HEADERS)
        hold = request(1, "Wire.Hold", flags=HEADERS)
        piece = Frame(PART, MESSAGE | MORE, 1, body=b"x")
        end = Frame(PART, END, 1)
        flood = [Frame(PART, MESSAGE, 1, body=bytes(60000))] * 10
        names = flat({f"n{i}": "" for i in range(257)})
        for name, data in {
            "type 0": joined(Frame(0)),
            "type 7": joined(Frame(7)),
            "an unknown flag of PART": joined(Frame(PART, 16 | HEADERS, 1)),
            "no flag of PART": joined(Frame(PART, 0, 1)),
            "only MORE": joined(begin, Frame(PART, MORE, 1)),
            "an unknown flag of PING": joined(Frame(PING, 1)),
            "an unknown flag of RESET": joined(Frame(RESET, 1, 1)),
            "an absurd length": FRAME.pack(ALL, PART, HEADERS, 0, 1, 0),
            "an absurd length of PING": FRAME.pack(ALL, PING, 0, 0, 0, 0),
            "1,025 bytes of PING": joined(Frame(PING, body=bytes(1025))),
            "a head of PING": joined(Frame(PING, head=b"x")),
            "a head above the frame": FRAME.pack(4, PART, HEADERS, 5, 1, 0),
            "stream 0 of PART": joined(request(0, "Wire.Echo")),
            "stream 0 of RESET": joined(Frame(RESET)),
            "a number twice": joined(begin, request(1, "Wire.Echo")),
            "a number that falls": joined(
                request(3, "Wire.Echo"), request(2, "Wire.Echo")
            ),
            "a piece above the limit": joined(
                request(1, "Wire.Echo", bytes(65537))
            ),
            "a part after the end": joined(hold, end, end),
            "a body without MESSAGE": joined(
                begin, Frame(PART, END, 1, body=b"x")
            ),
            "an empty piece": joined(begin, Frame(PART, MESSAGE | MORE, 1)),
            "MORE with END": joined(
                begin, Frame(PART, MESSAGE | MORE | END, 1, body=b"x")
            ),
            "an end between pieces": joined(begin, piece, end),
            "a head within a message": joined(
                begin, piece, Frame(PART, MESSAGE, 1, 0, b"x")
            ),
            "a head without HEADERS or END": joined(
                begin, Frame(PART, MESSAGE, 1, 0, b"\0\0\0")
            ),
            "more than there is credit": joined(hold, *flood),
            "a credit of 0": joined(Frame(WINDOW)),
            "a credit of 2^32": joined(Frame(WINDOW, 0, 0, ALL)),
            "a credit of 2^32 of a stream": joined(begin, Frame(WINDOW, 0, 1, ALL)),
            "a head cut short": joined(Frame(PART, HEADERS, 1, 0, b"\4\0wir")),
            "a text without its zero": joined(
                Frame(PART, HEADERS, 1, 0, b"\4\0wire!")),
            "a text with a zero": joined(
                Frame(PART, HEADERS, 1, 0, b"\4\0w\0re\0")),
            "a name without value": head("w", "e", "t", "n"),
            "a name that is not allowed": head("", "Wire.Echo", "", "a:", "b"),
            "an empty name": head("", "Wire.Echo", "", "", "b"),
            "a value with LF": head("", "Wire.Echo", "", "a", "b\n"),
            "a content type with LF": head("", "Wire.Echo", "\n"),
            "257 headers": head("", "Wire.Echo", "", *names),
        }.items():  # fmt: skip
            with self.subTest(name), self.service.raw(Hello().encode()) as raw:
                raw.send(data)
                kinds = {frame.type for frame in raw.until_end()}
                self.assertLessEqual(kinds, {PART, WINDOW})

    def test_ignored(self):
        for name, data in {
            "a part of a stream that has ended": joined(
                request(5, "Wire.Echo", b"x"), Frame(RESET, 0, 5), Frame(PART, END, 5)),
            "a number that was left out": joined(
                request(5, "Wire.Echo"), Frame(PART, END, 2)),
            "a part of a stream that never was": joined(
                Frame(PART, MESSAGE, 9, body=b"x")),
            "an end of a stream that never was": joined(Frame(PART, END, 9)),
            "a reset of a stream that never was": joined(Frame(RESET, 0, 9)),
            "credit for a stream that never was": joined(Frame(WINDOW, 0, 9, ALL)),
            "a PONG": joined(Frame(PONG, 0, 0, 2)),
            "a DRAIN of a client": joined(Frame(DRAIN, 0, 0), request(1, "Wire.Echo")),
        }.items():  # fmt: skip
            with self.subTest(name), self.service.raw(Hello().encode()) as raw:
                raw.send(data + joined(Frame(PING, value=9)))
                Hello.read(raw.read)
                while (frame := raw.frame()).type != PONG:
                    self.assertIn(frame.type, (PART, RESET))
                self.assertEqual(frame.value, 9)

    def test_limits(self):
        flags = (
            "--max_message_size=50000",
            "--max_header_size=1000",
            "--max_streams=2",
        )
        with Service(*flags) as service, service.connection() as c:
            both = c.open("wire", "Wire.Each")
            for name, message, headers in (
                ("message", bytes(50001), {}), ("headers", b"", {"a": "b" * 1000}),
            ):  # fmt: skip
                with self.subTest(name), self.assertRaises(Failure) as caught:
                    c.call("wire", "Wire.Echo", message, headers=headers)
                self.assertEqual(caught.exception.code, EXHAUSTED)
                self.assertTrue(caught.exception.not_run)
            also = c.open("wire", "Wire.Each")
            with self.assertRaises(Failure) as caught:
                c.call("wire", "Wire.Echo")
            self.assertEqual(caught.exception.code, EXHAUSTED)
            self.assertTrue(caught.exception.not_run)
            also.send(bytes(50001))
            with self.assertRaises(Failure) as caught:
                also.recv()
            self.assertEqual(caught.exception.code, EXHAUSTED)
            both.send(b"goes on", True)
            self.assertEqual(list(both), [b"goes on"])

    def test_unary_waits_for_the_end(self):
        both = HEADERS | MESSAGE
        with self.service.raw(Hello().encode()) as raw:
            raw.send(joined(request(1, "Wire.Echo", b"one", both), Frame(PING)))
            Hello.read(raw.read)
            self.assertEqual(raw.frame().type, PONG)
            raw.send(joined(Frame(PART, END, 1)))
            self.assertEqual(raw.frame().body, b"one")
            raw.send(joined(request(2, "Wire.Echo", flags=HEADERS | END)))
            self.assertEqual(raw.frame().flags, HEADERS | MESSAGE | END)
            more = Frame(PART, MESSAGE | END, 3)
            raw.send(joined(request(3, "Wire.Echo", b"one", both), more))
            answer = raw.frame()
            self.assertEqual((answer.flags, answer.value), (HEADERS | END, INVALID))

    def test_half_closed(self):
        # An answer's end ends the stream, whatever the request had still to say.
        with Service() as service, service.raw(Hello().encode()) as raw:
            raw.send(joined(request(1, "Wire.Count", b"1", HEADERS | MESSAGE)))
            Hello.read(raw.read)
            frames = [raw.frame() for _ in range(3)]
            self.assertEqual([f.type for f in frames], [PART, PART, RESET])
            self.assertTrue(frames[1].flags & END)
            raw.send(joined(Frame(PART, END, 1), Frame(PING)))
            self.assertEqual(raw.frame().type, PONG)


class LifeTest(unittest.TestCase):
    """Keepalive, idle connections and drain."""

    def test_keepalive(self):
        opening = joined(request(1, "Wire.Each", flags=HEADERS))
        with Service("--keepalive=1s") as service:
            with service.raw(Hello().encode() + opening) as raw:
                self.assertEqual({f.type for f in raw.until_end()}, {PING})
            with service.connection() as c:
                both = c.open("wire", "Wire.Each")
                with c.changed:
                    # The peer answers, so all of that time may pass.
                    c.wait(lambda: len(c.frames) >= 4)
                both.send(b"alive", True)
                self.assertEqual(list(both), [b"alive"])

    def test_idle(self):
        with (
            Service("--idle_timeout=1s", "--keepalive=1s") as service,
            service.raw(Hello().encode() + request(1, "Wire.Echo").encode()) as raw,
        ):
            Hello.read(raw.read)
            self.assertEqual(raw.frame().type, PART)
            drain, ping = raw.frame(), raw.frame()
            self.assertEqual((drain.type, drain.stream), (DRAIN, ALL))
            self.assertEqual((ping.type, ping.value), (PING, 1))
            raw.send(joined(request(2, "Wire.Echo", b"late")))
            self.assertEqual(raw.frame().body, b"late")
            raw.send(joined(Frame(PONG, 0, ping.stream, ping.value)))
            last = raw.frame()
            self.assertEqual((last.type, last.stream), (DRAIN, 2))
            ping = raw.frame()
            self.assertEqual((ping.type, ping.value), (PING, 2))
            raw.send(joined(Frame(PONG, 0, ping.stream, ping.value)))
            with self.assertRaises(ConnectionError):
                raw.frame()

    def test_stop(self):
        with Service() as service, service.raw(Hello().encode()) as raw:
            raw.send(joined(request(1, "Wire.Each", b"one", HEADERS | MESSAGE)))
            Hello.read(raw.read)
            self.assertEqual(raw.frame().body, b"one")
            service.stop()
            drain = raw.frame()
            self.assertEqual((drain.type, drain.stream), (DRAIN, ALL))
            raw.send(joined(request(2, "Wire.Echo", b"two")))
            reset = raw.frame()
            self.assertEqual((reset.type, reset.flags), (RESET, NOT_RUN))
            self.assertEqual((reset.stream, reset.value), (2, 14))
            raw.send(joined(Frame(PART, MESSAGE | END, 1, body=b"three")))
            frames = []
            with contextlib.suppress(ConnectionError):
                while True:
                    frames.append(raw.frame())
                    if frames[-1].type == PING:
                        raw.send(
                            joined(Frame(PONG, 0, frames[-1].stream, frames[-1].value))
                        )
            self.assertEqual(
                b"".join(f.body for f in frames if f.type == PART), b"three"
            )
            last = [f.stream for f in frames if f.type == DRAIN]
            self.assertEqual(last, [2])
            self.assertEqual(service.process.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()
