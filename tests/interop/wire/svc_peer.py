# SPDX-License-Identifier: Apache-2.0
"""A peer for svc frames, version 1, written from docs/wire.md alone.

It knows nothing of svc's C code: whoever can follow that page can speak to svc.
`Connection` and `Stream` are the behaviour, the same for both sides; `dial` and
`Server` make connections.

Each connection has a thread that reads and one that writes; everything about it is
guarded by its condition `changed`. Applications' threads wait on that.
"""

import collections
import dataclasses
import socket
import threading

from svc_frames import (
    ALL, DRAIN, END, GRANT, HEADERS, MESSAGE, MORE, NOT_RUN, PART, PIECE_MIN, PING,
    PONG, RESET, WINDOW, Frame, Hello, Violation, flat, pairs_decode, texts_decode,
    texts_encode,
)  # fmt: skip

OK, CANCELLED, EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 0, 1, 8, 12, 14


class Failure(Exception):
    """How a stream ended that did not end well."""

    def __init__(self, code, text, trailers=(), not_run=False):
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text
        self.trailers, self.not_run = dict(trailers), not_run


class Stream:
    """One stream, of either side."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        peer = connection.peer
        self.credit = peer.stream_window if peer else 0  # to send
        self.granted = connection.hello.stream_window  # to receive
        self.owed = 0  # consumed, and not given back yet
        self.waived = self.waiving = False  # a large message: of theirs, ours
        self.service = self.endpoint = self.content_type = None
        self.time_left_ms = 0
        self.headers, self.trailers = {}, {}
        self.inbox = collections.deque()  # (message, cost, what was given back)
        self.pieces, self.pieces_cost, self.given = [], 0, 0
        self.got_headers = self.got_end = False
        self.sent_headers = self.sent_end = False
        self.failure = None

    # ------------------------------------------------------------- sending

    def send(self, message=None, end=False, **first_and_last):
        """Sends a message, waiting for credit.

        content_type and headers go with the first part (with service, endpoint
        and time_left_ms at the side that opened it), code, text and trailers with
        the last.
        """
        connection = self.connection
        with connection.changed:
            for frame in self._parts(message, end, **first_and_last):
                connection.wait(lambda f=frame: self.sent_end or self._may(f))
                if self.sent_end:
                    raise self.failure or Failure(CANCELLED, "no more is taken")
                self.credit -= frame.cost
                connection.credit -= frame.cost
                connection.write(frame)
            self.waived = False
            self.sent_end |= end
            connection.forget(self)

    def _may(self, frame):
        if frame.flags & HEADERS or not frame.flags & MESSAGE:
            return True
        if self.credit <= 0:
            return False
        return frame.flags & END or self.waived or self.connection.credit > 0

    def _parts(self, message, end, content_type="", headers=(), code=OK, text="",
               trailers=(), service="", endpoint="", time_left_ms=0):  # fmt: skip
        answer = self.connection.listens
        first, last, value = [], [], 0
        flags = MESSAGE if message is not None else 0
        if not self.sent_headers:
            self.sent_headers = True
            flags |= HEADERS
            first = [content_type] if answer else [service, endpoint, content_type]
            value = 0 if answer else time_left_ms
        if end and answer:
            last, value = [text], code
        peer = self.connection.peer
        piece = peer.piece if peer else PIECE_MIN
        chunks = [message[i : i + piece] for i in range(0, len(message or b""), piece)]
        if len(chunks) <= 1:
            # Headers and end in one part have one list of pairs.
            pairs = flat(headers) if flags & HEADERS else flat(trailers) if end else []
            if flags & HEADERS:
                pairs = flat({**dict(headers), **dict(trailers)})
            flags |= END if end else 0
            head = texts_encode(first + last + pairs)
            yield Frame(PART, flags, self.number, value, head, message or b"")
            return
        for i, chunk in enumerate(chunks):
            is_last = i == len(chunks) - 1
            flags = MESSAGE | (0 if is_last else MORE)
            head, value = b"", 0
            if i == 0 and first:
                flags |= HEADERS
                head = texts_encode(first + flat(headers))
                value = 0 if answer else time_left_ms
            if is_last and end:
                flags |= END
                head = texts_encode(last + flat(trailers))
                value = code
            yield Frame(PART, flags, self.number, value, head, chunk)

    def reset(self, code=CANCELLED, text="", not_run=False):
        """Gives the stream up."""
        with self.connection.changed:
            flags = NOT_RUN if not_run else 0
            frame = Frame(RESET, flags, self.number, code, body=text.encode())
            self.connection.write(frame)
            self.end(Failure(code, text, not_run=not_run))

    # ----------------------------------------------------------- receiving

    def recv(self):
        """The next message, or None at a clean end; raises Failure."""
        connection = self.connection
        with connection.changed:
            connection.wait(lambda: self.inbox or self.got_end or self.failure)
            if self.inbox:
                message, cost, given = self.inbox.popleft()
                connection.consumed(self, cost, given)
                return message
            if self.failure:
                raise self.failure
            return None

    def __iter__(self):
        return iter(self.recv, None)

    def take(self, frame):
        """A part of this stream has come."""
        connection = self.connection
        if self.got_end or bool(frame.flags & HEADERS) == self.got_headers:
            raise Violation("a part out of turn")
        if self.pieces and not frame.flags & MESSAGE:
            raise Violation("a part between pieces")
        if not frame.flags & MESSAGE and (frame.body or frame.flags & MORE):
            raise Violation("a body without a message")
        if frame.flags & MORE and (frame.flags & END or not frame.body):
            raise Violation("an empty piece")
        if frame.flags & MESSAGE and not frame.flags & HEADERS:
            connection_open = (
                frame.flags & END or self.waiving or connection.granted > 0
            )
            if self.granted <= 0 or not connection_open:
                raise Violation("more than there was credit for")
        self.granted -= frame.cost
        connection.granted -= frame.cost
        failure = self._head(frame)
        self.pieces_cost += frame.cost
        if frame.flags & MESSAGE:
            self.pieces.append(frame.body)
        if frame.flags & MORE:
            if self.waiving:
                self.given += frame.cost
                connection.give(self, frame.cost)
            connection.grant_large()
        elif frame.flags & MESSAGE:
            whole = b"".join(self.pieces), self.pieces_cost, self.given
            self.inbox.append(whole)
            self.pieces, self.pieces_cost, self.given = [], 0, 0
            self.waiving = False
        else:
            connection.consumed(self, self.pieces_cost)
            self.pieces_cost = 0
        if frame.flags & END:
            self.got_end = True
            self.failure = failure
            connection.forget(self)

    def _head(self, frame):
        texts = texts_decode(frame.head)
        answer = not self.connection.listens
        failure = None
        if frame.flags & HEADERS:
            self.got_headers = True
            if not answer:
                self.service, self.endpoint = texts.pop(0), texts.pop(0)
                self.time_left_ms = frame.value
            self.content_type = texts.pop(0)
        if frame.flags & END and answer:
            text = texts.pop(0)
            if frame.value != OK:
                failure = Failure(frame.value, text)
        if frame.flags & HEADERS:
            self.headers = pairs_decode(texts)
        elif frame.flags & END:
            self.trailers = pairs_decode(texts)
        elif texts:
            raise Violation("a head where none belongs")
        if failure:
            failure.trailers = {**self.headers, **self.trailers}
            failure.not_run = failure.trailers.get("svc-not-run") == "true"
        return failure

    def end(self, failure):
        """The stream is over; behind its end that only says to send no more."""
        self.sent_end = True
        if self.got_end:
            self.connection.forget(self)
            return
        self.failure, self.got_end = failure, True
        held = self.pieces_cost + sum(cost for _, cost, _ in self.inbox)
        self.inbox.clear()
        self.pieces, self.pieces_cost = [], 0
        self.connection.consumed(None, held)
        self.connection.forget(self)


class Connection:
    """One connection; `serve(stream)` runs on a thread for each that is opened."""

    def __init__(self, sock, hello=None, serve=None, timeout=20):
        self.sock, self.hello = sock, hello or Hello()
        self.serve, self.listens = serve, serve is not None
        self.timeout = timeout
        self.changed = threading.Condition(threading.RLock())
        self.peer = None
        self.credit, self.granted, self.owed = 0, self.hello.connection_window, 0
        self.streams, self.last = {}, 0
        self.drained = ALL  # the last stream that the peer will run
        self.draining = self.refuses = False
        self.pongs = collections.deque()
        self.frames = []  # that have come, the head of each
        self.out = collections.deque([self.hello.encode()])
        self.closed = None  # why, once it is
        for work in (self._reads, self._writes):
            threading.Thread(target=work, daemon=True).start()

    # --------------------------------------------------------- application

    def open(self, service, endpoint, message=None, end=False, **rest):
        """Opens a stream, with its first message if there is one."""
        with self.changed:
            if self.draining:
                raise Failure(UNAVAILABLE, "draining", not_run=True)
            self.last += 1
            stream = self.streams[self.last] = Stream(self, self.last)
        stream.send(message, end, service=service, endpoint=endpoint, **rest)
        return stream

    def call(self, service, endpoint, message=b"", **rest):
        """A unary call: the answer's message and its stream."""
        stream = self.open(service, endpoint, message, True, **rest)
        answer = stream.recv()
        if stream.recv() is not None:
            raise Violation("two answers to one call")
        return answer, stream

    def ping(self, value=0, body=b"", stream=0):
        """Sends PING and waits for PONG."""
        with self.changed:
            self.write(Frame(PING, 0, stream, value, body=body))
            self.wait(lambda: self.pongs or self.closed)
            if not self.pongs:
                raise self.closed
            return self.pongs.popleft()

    def drain(self, number=ALL):
        """Takes no new streams from here on."""
        with self.changed:
            self.refuses = True
            self.write(Frame(DRAIN, 0, number))

    def close(self):
        """Closes at once, and waits for what was written."""
        with self.changed:
            self.wait(lambda: not self.out or self.closed)
            self._end(Failure(UNAVAILABLE, "closed"))

    def wait(self, ready):
        """Waits under the lock until ready() is true."""
        if not self.changed.wait_for(ready, self.timeout):
            raise TimeoutError("nothing came")

    # ------------------------------------------------------------- streams

    def write(self, frame):
        """Queues a frame."""
        self.out.append(frame.encode())
        self.changed.notify_all()

    def forget(self, stream):
        """Drops a stream that has ended both ways."""
        if stream.got_end and stream.sent_end:
            self.streams.pop(stream.number, None)
        self.changed.notify_all()

    def consumed(self, stream, cost, given=0):
        """Gives credit back once half a window has come together."""
        self.owed += cost
        if self.owed * 2 >= self.hello.connection_window:
            self.granted += self.owed
            self.write(Frame(WINDOW, 0, 0, self.owed))
            self.owed = 0
        if stream and not stream.got_end:
            stream.owed += cost - given
            if stream.owed * 2 >= self.hello.stream_window:
                self.give(stream, stream.owed)
                stream.owed = 0
        self.grant_large()

    def give(self, stream, amount, flags=0):
        """Gives a stream credit, as much as anybody likes."""
        stream.granted += amount
        self.write(Frame(WINDOW, flags, stream.number, amount))

    def grant_large(self):
        """Lets the oldest message go on that is larger than the windows."""
        for stream in self.streams.values():
            if stream.waiving:
                break
            if not stream.pieces or stream.inbox:
                continue
            if stream.granted > 0 and self.granted > 0:
                continue
            stream.waiving = True
            stream.given = stream.pieces_cost
            self.give(stream, stream.given, GRANT)
            break

    # ------------------------------------------------------------- threads

    def _read(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise ConnectionError("closed by the peer")
            data += more
        return data

    def _reads(self):
        try:
            peer = Hello.read(self._read)
            with self.changed:
                self.peer = peer
                self.credit += peer.connection_window
                for stream in self.streams.values():
                    stream.credit += peer.stream_window
                self.changed.notify_all()
            while True:
                frame = Frame.read(self._read, self.hello.piece)
                with self.changed:
                    self.frames.append((frame.type, frame.flags, frame.stream))
                    self._take(frame)
                    self.changed.notify_all()
        except (OSError, Violation) as reason:
            with self.changed:
                self._end(reason)

    def _writes(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.out or self.closed)
                if self.closed:
                    return
                data = b"".join(self.out)
            try:
                self.sock.sendall(data)
            except OSError:
                return  # the reader knows as well
            with self.changed:
                while data:
                    data = data[len(self.out.popleft()) :]
                self.changed.notify_all()

    def _end(self, reason):
        if self.closed is None:
            self.closed = reason
            for stream in list(self.streams.values()):
                stream.end(Failure(UNAVAILABLE, str(reason)))
            self.sock.close()
        self.changed.notify_all()

    def _take(self, frame):
        stream = self.streams.get(frame.stream)
        if frame.type == PING:
            self.write(dataclasses.replace(frame, type=PONG))
        elif frame.type == PONG:
            self.pongs.append(frame)
        elif frame.type == WINDOW:
            self._take_window(frame, stream)
        elif frame.type == DRAIN:
            self.draining = True
            for late in [s for n, s in self.streams.items() if n > frame.stream]:
                late.end(Failure(UNAVAILABLE, "drained", not_run=True))
        elif frame.type == RESET and stream:
            not_run = bool(frame.flags & NOT_RUN)
            stream.end(
                Failure(
                    frame.value, frame.body.decode(errors="replace"), not_run=not_run
                )
            )
        elif frame.type == PART:
            self._take_part(frame, stream)

    def _take_window(self, frame, stream):
        if frame.value == 0:
            raise Violation("a credit of 0")
        if frame.stream == 0:
            self.credit += frame.value
        elif stream:
            stream.credit += frame.value
            stream.waived |= bool(frame.flags & GRANT)
        if max(self.credit, stream.credit if stream else 0) >= 1 << 32:
            raise Violation("credit without end")

    def _take_part(self, frame, stream):
        if stream is None and self.listens and frame.stream > self.last:
            self.last = frame.stream
            full = len(self.streams) >= self.hello.max_streams
            if self.refuses or full:
                code = UNAVAILABLE if self.refuses else EXHAUSTED
                text = b"no more streams"
                self.write(Frame(RESET, NOT_RUN, frame.stream, code, body=text))
            else:
                stream = self.streams[self.last] = Stream(self, self.last)
                threading.Thread(target=self._run, args=(stream,), daemon=True).start()
        elif stream is None and frame.stream > self.last:
            raise Violation("a stream that was never opened")
        if stream is None:
            self.granted -= frame.cost
            self.consumed(None, frame.cost)
        else:
            stream.take(frame)

    def _run(self, stream):
        try:
            with self.changed:
                self.wait(lambda: stream.got_headers or stream.failure)
            self.serve(stream)
            failure = Failure(OK, "")
        except Failure as raised:
            failure = raised
        with self.changed:
            if not stream.sent_end:
                stream.send(None, True, code=failure.code, text=failure.text,
                            trailers=failure.trailers)  # fmt: skip
            if not stream.got_end:
                stream.reset(failure.code)


def dial(port, hello=None, **rest):
    """A connection to a listener on this machine."""
    return Connection(socket.create_connection(("127.0.0.1", port)), hello, **rest)


class Server:
    """Listens on a free port; handlers is a dictionary from endpoint to function."""

    def __init__(self, handlers, hello=None):
        self.handlers, self.hello = handlers, hello
        self.connections = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._accepts, daemon=True).start()

    def _accepts(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            self.connections.append(Connection(sock, self.hello, self._serve))

    def _serve(self, stream):
        handler = self.handlers.get(stream.endpoint)
        if handler is None:
            raise Failure(UNIMPLEMENTED, f"no endpoint {stream.endpoint}")
        handler(stream)

    def close(self):
        """Stops listening and closes every connection."""
        self.sock.close()
        for connection in self.connections:
            connection.close()
