# SPDX-License-Identifier: Apache-2.0
"""What the tests of docs/wire.md share: the service, and connections to it."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

from svc_frames import (
    END, HEADERS, MESSAGE, PART, Frame, Hello, flat, texts_encode,
)  # fmt: skip
from svc_peer import dial

BIN = pathlib.Path(os.environ["SVC_BUILD_DIR"]) / "bin"
PAGE = pathlib.Path(os.environ["SVC_SOURCE_DIR"]) / "docs" / "wire.md"
PATIENCE = 30
EXHAUSTED, PRECONDITION, DENIED, INVALID = 8, 9, 7, 3


class Service:
    """wire_service with these flags, until the end of the block."""

    def __init__(self, *flags):
        command = [BIN / "wire_service", "--log_level=info", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if started := re.search(r"service\.started.* at \S+:(\d+) ", line):
                self.port = int(started[1])
                break
            sys.stderr.write(line)
        else:
            raise RuntimeError(f"wire_service ended with {self.process.wait()}")
        self.log = threading.Thread(target=self._copy_log)
        self.log.start()

    def _copy_log(self):
        with self.process.stderr as log:
            for line in log:
                sys.stderr.write(line)

    def __enter__(self):
        return self

    def stop(self):
        """Asks it to drain and end."""
        self.process.send_signal(signal.SIGTERM)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.join()

    @contextlib.contextmanager
    def connection(self, hello=None):
        """A connection of the peer."""
        connection = dial(self.port, hello, timeout=PATIENCE)
        try:
            yield connection
        finally:
            connection.close()

    def raw(self, data):
        """A connection on which nothing is said but this."""
        return Raw(socket.create_connection(("127.0.0.1", self.port)), data)

    def tally(self):
        """How many messages Wire.Count has sent, how many streams were cancelled."""
        with self.connection() as c:
            return [int(n) for n in c.call("wire", "Wire.Tally")[0].split()]


class Raw:
    """A connection on which bytes are sent and frames are read, and nothing else."""

    def __init__(self, sock, data=b""):
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.send(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """Sends bytes, unless the other side has closed already."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def read(self, count):
        """So many bytes; ConnectionError at the end."""
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def frame(self):
        """The next frame."""
        return Frame.read(self.read, 1 << 16)

    def until_end(self):
        """The frames until the other side closes, behind a hello if one comes."""
        frames = []
        with contextlib.suppress(ConnectionError):
            Hello.read(self.read)
            while True:
                frames.append(self.frame())
        return frames


def request(stream, endpoint, message=b"", flags=HEADERS | MESSAGE | END, **pairs):
    """The first part of a stream to the service."""
    head = texts_encode(["wire", endpoint, "", *flat(pairs)])
    return Frame(PART, flags, stream, 0, head, message)


def joined(*frames):
    """The bytes of frames."""
    return b"".join(frame.encode() for frame in frames)


def parts(connection):
    """How many PART frames have come."""
    with connection.changed:
        return sum(1 for kind, _, _ in connection.frames if kind == PART)
