# SPDX-License-Identifier: Apache-2.0
"""Whether docs/wire.md says what svc does: a peer made from it calls svc and is called.

wire_service is what is called, wire_client and `svc call` are what call.
"""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from svc_frames import (
    ALL, END, FRAME, HEADERS, MESSAGE, PART, RESET, WINDOW, Frame, Hello,
    texts_decode, texts_encode,
)  # fmt: skip
from svc_peer import Failure, Server
from wire_case import (
    BIN, DENIED, PAGE, PATIENCE, PRECONDITION, Raw, Service, parts,
)  # fmt: skip


class CallTest(unittest.TestCase):
    """The peer calls the service."""

    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(Service())

    def setUp(self):
        self.c = self.enterContext(self.service.connection())

    def fails(self, code, text, work, *arguments, **rest):
        """Checks how something fails, and returns the failure."""
        with self.assertRaises(Failure) as caught:
            work(*arguments, **rest)
        self.assertEqual(caught.exception.code, code)
        self.assertIn(text, caught.exception.text)
        return caught.exception

    def test_unary(self):
        answer, stream = self.c.call("wire", "Wire.Echo", b"hello",
            content_type="text/plain", headers={"Ask": "me"},
            time_left_ms=60000)  # fmt: skip
        self.assertEqual(answer, b"hello")
        self.assertEqual(stream.content_type, "text/plain")
        self.assertEqual(stream.headers["seen"], "me")
        self.assertTrue(0 < int(stream.headers["left"]) <= 60000)
        answer, stream = self.c.call("", "Wire.Echo", b"anybody")
        self.assertEqual((answer, stream.headers), (b"anybody", {}))

    def test_errors(self):
        failure = self.fails(
            PRECONDITION, "not so", self.c.call, "wire", "Wire.Fail", b"so"
        )
        self.assertEqual(failure.trailers, {"why": "asked"})
        failure = self.fails(12, "no endpoint", self.c.call, "wire", "Wire.None")
        self.assertFalse(failure.not_run)
        failure = self.fails(14, "", self.c.call, "other", "Wire.Echo")
        self.assertTrue(failure.not_run)

    def test_streams(self):
        both = self.c.open("wire", "Wire.Each", headers={"a": "b"})
        for i in range(300):
            both.send(b"%d" % i)
        self.assertEqual(both.recv(), b"0")
        self.assertEqual(both.headers, {"kind": "each"})
        both.send(b"", end=True, trailers={"Bye": "well"})
        self.assertEqual(list(both), [b"%d" % i for i in range(1, 300)] + [b""])
        self.assertEqual(both.trailers, {"count": "301", "bye": "well"})
        down = self.c.open("wire", "Wire.Count", b"300", True)
        self.assertEqual(list(down), [b"%01000d" % i for i in range(300)])
        up = self.c.open("wire", "Wire.Sum")
        for i in range(300):
            up.send(bytes(i))
        up.send(end=True)
        self.assertEqual(list(up), [b"300 messages, 44850 bytes"])

    def test_stream_that_fails(self):
        both = self.c.open("wire", "Wire.Each", b"one")
        self.assertEqual(both.recv(), b"one")
        both.send(end=True, trailers={"bye": "badly"})
        failure = self.fails(DENIED, "ended badly", both.recv)
        self.assertEqual(failure.trailers["count"], "1")

    def test_many_at_once(self):
        streams = [self.c.open("wire", "Wire.Each") for _ in range(50)]
        for i in range(20):
            for n, stream in enumerate(streams):
                stream.send(b"%d of %d" % (i, n))
        for n, stream in enumerate(streams):
            stream.send(end=True)
            self.assertEqual(list(stream), [b"%d of %d" % (i, n) for i in range(20)])

    def test_large(self):
        large = os.urandom(9_000_000)  # more than any window
        self.assertEqual(self.c.call("wire", "Wire.Echo", large)[0], large)
        with self.service.connection(
            Hello(stream_window=256, connection_window=256)
        ) as c:
            self.assertEqual(c.call("wire", "Wire.Echo", large)[0], large)
            both = c.open("wire", "Wire.Each", large)
            self.assertEqual(both.recv(), large)
            both.send(b"small")
            self.assertEqual(both.recv(), b"small")
            both.send(large[:100_000], end=True, trailers={"bye": "large"})
            self.assertEqual(list(both), [large[:100_000]])
            self.assertEqual(both.trailers, {"count": "3", "bye": "large"})

    def test_two_large_at_once(self):
        # Neither has the connection to itself, and one is granted after the other.
        with self.service.connection(Hello(connection_window=100_000)) as c:
            large = [os.urandom(6_000_000) for _ in range(3)]
            streams = [c.open("wire", "Wire.Each") for _ in large]
            senders = [threading.Thread(target=s.send, args=(m, True))
                       for s, m in zip(streams, large, strict=True)]  # fmt: skip
            for sender in senders:
                sender.start()
            self.assertEqual([s.recv() for s in streams], large)
            self.assertEqual([s.recv() for s in streams], [None] * 3)
            for sender in senders:
                sender.join()

    def test_cancel(self):
        before = self.service.tally()[1]
        both = self.c.open("wire", "Wire.Each", b"one")
        self.assertEqual(both.recv(), b"one")
        both.reset()
        until = time.monotonic() + PATIENCE
        while self.service.tally()[1] == before:
            self.assertLess(time.monotonic(), until)
        self.assertEqual(self.c.call("wire", "Wire.Echo", b"on")[0], b"on")

    def test_ping(self):
        pong = self.c.ping(7, b"body", 3)
        self.assertEqual((pong.stream, pong.value, pong.body), (3, 7, b"body"))

    def test_reader_that_grants_nothing(self):
        # The first message costs 1,019 bytes, as its head is an empty text, each
        # other 1,016: so five use up 4,096. Three of them given back are three more.
        for hello in (Hello(stream_window=4096), Hello(connection_window=4096)):
            with self.subTest(hello), self.service.connection(hello) as c:
                before = self.service.tally()[0]
                down = c.open("wire", "Wire.Count", b"100", True)
                for taken, come in ((0, 5), (3, 8)):
                    got = [down.recv() for _ in range(taken)]
                    with c.changed:
                        c.wait(lambda n=come: parts(c) >= n)
                    c.ping()
                    self.assertEqual(parts(c), come)
                    self.assertLess(self.service.tally()[0], before + 100)
                got += list(down)
                self.assertEqual(got, [b"%01000d" % i for i in range(100)])

    def test_writer_is_stopped(self):
        self.c.ping()  # their hello has come
        hold = self.c.open("wire", "Wire.Hold")
        window = self.c.peer.stream_window
        self.assertLess(window, 1_000_000)

        def write():
            for _ in range(1000):
                hold.send(bytes(1000))
            hold.send(end=True)

        writer = threading.Thread(target=write)
        writer.start()
        with self.c.changed:
            self.c.wait(lambda: hold.credit <= 0)
        self.c.ping()
        self.assertTrue(-1016 < hold.credit <= 0)
        # A call of one frame each way needs no credit.
        self.c.call("wire", "Wire.Release")
        self.assertEqual(hold.recv(), b"1000 messages, 1000000 bytes")
        self.assertIsNone(hold.recv())
        writer.join()

    def test_example(self):
        """What the page shows is what is said; flags of the service are defaults."""
        lines = re.findall(r"^([<>]) ((?:[0-9a-f]{2} )+)", PAGE.read_text(), re.M)
        said = dict.fromkeys("<>", b"")
        for way, octets in lines:
            said[way] += bytes.fromhex(octets)
        hello = Hello(max_message=1 << 20, max_streams=16, stream_window=65536,
            connection_window=1 << 18, piece=16384)  # fmt: skip
        head = texts_encode(["wire", "Wire.Echo", "text/plain", "Ask", "me"])
        asked = Frame(PART, HEADERS | MESSAGE | END, 1, 0, head, b"Ada")
        ours = hello.encode() + asked.encode()
        with self.service.raw(ours) as raw:
            theirs = raw.read(len(hello.encode()))
            frame = raw.frame()
        theirs += frame.encode()
        self.assertEqual(texts_decode(frame.head), ["text/plain", "", "seen", "me"])
        for way, octets in ((">", ours), ("<", theirs)):
            self.assertEqual(said[way].hex(" "), octets.hex(" "))


class ServeTest(unittest.TestCase):
    """svc calls the peer."""

    def setUp(self):
        self.seen = []
        self.server = Server(
            {"Wire.Echo": self.echo, "Wire.Fail": self.fail_as_asked,
             "Wire.Each": self.each, "Wire.Sum": self.sum, "Wire.Count": self.count,
             "Wire.Break": self.break_off, "Wire.Drain": self.drain},
            Hello(stream_window=4096, connection_window=16384))  # fmt: skip
        self.addCleanup(self.server.close)
        self.nodes = self.enterContext(tempfile.NamedTemporaryFile("w", suffix=".yaml"))
        self.nodes.write(f"wire: 127.0.0.1:{self.server.port}\n")
        self.nodes.flush()
        self.flags = ["--registry=static", f"--registry_address={self.nodes.name}"]

    def run_program(self, program, *arguments):
        """What a program prints."""
        command = [BIN / program, *arguments, *self.flags, "--log_level=off"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def echo(self, stream):
        """Answers with what was asked."""
        message = stream.recv()
        self.seen.append((stream.service, stream.content_type, stream.headers,
                          stream.time_left_ms))  # fmt: skip
        ask = stream.headers.get("ask")
        stream.send(message, True, content_type=stream.content_type,
                    headers={"Seen": ask} if ask else {})  # fmt: skip

    def fail_as_asked(self, stream):
        """Fails with headers."""
        raise Failure(PRECONDITION, f"not {stream.recv().decode()}", {"seen": "all"})

    def each(self, stream):
        """Sends back what comes."""
        for message in stream:
            stream.send(message, headers={"kind": "each"}, content_type="text/plain")
        stream.send(end=True, trailers={"bye": "well"})

    def sum(self, stream):
        """One answer to many messages."""
        answer = b"%d messages" % len(list(stream))
        stream.send(answer, True, content_type="text/plain")

    def count(self, stream):
        """Many answers to one message, more than svc's windows take ahead."""
        self.assertEqual(list(stream), [b"message 0"])
        for i in range(3):
            stream.send(b"answer %d" % i, content_type="text/plain")

    def break_off(self, stream):
        """Ends before its time."""
        stream.send(stream.recv(), content_type="text/plain")
        stream.reset(DENIED, "that is enough")

    def drain(self, stream):
        """Takes no more streams on this connection."""
        stream.connection.drain()
        self.echo(stream)

    def test_client(self):
        done = self.run_program("wire_client")
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.stdout.splitlines(), [
            "Wire.Echo 0 hello me",
            "Wire.Fail 9 not so all",
            "Wire.None 12 no endpoint Wire.None -",
            "large 0 same",
            "Wire.Each first message 0",
            "Wire.Each 32 got 1000, kind each, bye well, -",
            "Wire.Sum first 50 messages",
            "Wire.Sum 32 got 1, kind -, bye -, -",
            "Wire.Count first answer 0",
            "Wire.Count first answer 1",
            "Wire.Count first answer 2",
            "Wire.Count 32 got 3, kind -, bye -, -",
            "Wire.Break first message 0",
            "Wire.Break 7 got 1, kind -, bye -, that is enough",
            "Wire.Drain 0 now me",
            "Wire.Echo 0 again me",
        ])  # fmt: skip
        service, content_type, headers, time_left_ms = self.seen[0]
        self.assertEqual((service, content_type), ("wire", "text/plain"))
        self.assertEqual(headers["ask"], "me")
        self.assertTrue(0 < time_left_ms <= 9000)
        self.assertEqual(len(self.server.connections), 2)

    def test_tool(self):
        done = self.run_program("svc", "call", "wire", "Wire.Echo", '{"a":1}')
        self.assertEqual((done.stdout, done.returncode), ('{"a":1}\n', 0), done.stderr)
        self.assertEqual(self.seen[0][1], "application/json")
        done = self.run_program("svc", "call", "wire", "Wire.Fail", '"so"')
        self.assertIn('not "so"', done.stderr)
        self.assertNotEqual(done.returncode, 0)

    def test_answers(self):
        # Frames on the stream of a call, and what the caller is told.
        whole = texts_encode(["application/json", ""])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.nodes.seek(0)
            self.nodes.write(f"wire: 127.0.0.1:{listener.getsockname()[1]}\n")
            self.nodes.flush()
            for text, frames in {
                "{}": [Frame(PART, HEADERS | MESSAGE | END, 1, 0, whole, b"{}")],
                "[]": [Frame(PART, MESSAGE | END, 1, 0, b"\0\0\0", b"[]")],
                "svc: odd": [Frame(RESET, 0, 1, 99, body=b"odd")],
                "a second part with headers":
                    [Frame(PART, HEADERS, 1, 0, b"\0\0\0")] * 2,
                "a piece that is too large": [FRAME.pack(ALL, PART, HEADERS, 0, 1, 0)],
                "credit": [Frame(WINDOW, 0, 0, ALL)],
            }.items():  # fmt: skip
                said = [f if isinstance(f, bytes) else f.encode() for f in frames]
                answer = Hello().encode() + b"".join(said)
                with self.subTest(text), ThreadPoolExecutor(1) as pool:
                    pool.submit(self.answer, listener, answer)
                    done = self.run_program("svc", "call", "wire", "Wire.Echo",
                                            "--client_retries=0")  # fmt: skip
                    self.assertIn(text, done.stdout + done.stderr)

    def answer(self, listener, data):
        """Says this on the next connection, once something is asked."""
        with Raw(listener.accept()[0]) as raw:
            Hello.read(raw.read)
            raw.frame()
            raw.send(data)
            with contextlib.suppress(ConnectionError):
                raw.frame()

    def test_writer_is_stopped(self):
        # The answer waits until the handler has seen that svc's client stopped.
        stopped = []

        def hold(stream):
            c = stream.connection
            with c.changed:
                c.wait(lambda: stream.granted <= 0)
            c.ping()
            stopped.append(parts(c))
            for message in stream:
                stream.send(
                    message, content_type="text/plain", headers={"kind": "each"}
                )
            stream.send(end=True, trailers={"bye": "late"})

        self.server.handlers["Wire.Each"] = hold
        done = self.run_program("wire_client")
        self.assertIn("Wire.Each 32 got 1000, kind each, bye late, -", done.stdout)
        self.assertEqual(len(stopped), 1)


if __name__ == "__main__":
    unittest.main()
