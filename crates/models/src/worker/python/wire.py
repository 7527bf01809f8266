"""Millgate's model worker, first part: frames and the socket.

The parts of this folder are joined into one file that is started as `python -I -X faulthandler worker.py` with one
end of a socket pair as descriptor 0. Only the standard library is imported until LOAD.

A frame is `u32 LE length | u8 kind | u64 LE request id | payload`; the length counts kind, id and payload.
"""

import io
import json
import os
import socket
import struct
import sys
import traceback

HELLO, LOAD, READY, FAILED, PREDICT_JSON, PREDICT_COLUMNS, RESULT_ARRAY = 1, 2, 3, 4, 5, 6, 7
RESULT_JSON, RESULT_PARTS, ERROR, PING, PONG, WARM, STOP, FORK, FORKED, ENDED = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
CHAT, CANCEL, ITEM, DONE = 19, 20, 21, 22
HEAD = struct.Struct("<IBQ")
U32 = struct.Struct("<I")
LIMIT = 1 << 31


class Wire:
    """Our end of the socket. When the other end is gone the process ends at once."""

    def __init__(self, descriptor):
        self.socket = socket.socket(fileno=descriptor)
        self.file = self.socket.makefile("rb", 1 << 16)

    def send(self, kind, request, *parts):
        frame = b"".join((HEAD.pack(sum(map(len, parts)) + 9, kind, request), *parts))
        try:
            self.socket.sendall(frame)
        except OSError:
            os._exit(0)

    def receive(self):
        """The next frame; its payload is a bytearray, so that arrays on it can be written to."""
        try:
            head = self.file.read(HEAD.size)
            if len(head) < HEAD.size:
                os._exit(0)
            length, kind, request = HEAD.unpack(head)
            if not 9 <= length <= LIMIT:
                os._exit(70)
            payload = bytearray(length - 9)
            if payload and self.file.readinto(payload) < len(payload):
                os._exit(0)
            return kind, request, payload
        except OSError:
            os._exit(0)


def take_socket():
    """The socket that stands where standard input is, which becomes empty."""
    own = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return Wire(own)


def hello(wire):
    said = {"protocol": 2, "python": sys.version.split()[0], "pid": os.getpid()}
    wire.send(HELLO, 0, json.dumps(said).encode())
