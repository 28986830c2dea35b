"""usage: make_seeds.py TARGET DIRECTORY

Writes inputs that a fuzz target understands into its corpus: what it then changes is at least the beginning of something."""
import gzip
import pathlib
import random
import struct
import sys


def envelope(payload, flags=0):
    return struct.pack(">BI", flags, len(payload)) + payload


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def text(field, value):
    value = value if isinstance(value, bytes) else value.encode()
    return varint(field << 3 | 2) + varint(len(value)) + value


def number(field, value):
    return varint(field << 3) + varint(value)


def entry():
    return (text(1, "f") + number(2, 1) + text(3, "/f") + number(4, 12345678901) + number(5, 0o644) + text(6, "-rw-r--r--")
            + text(7, "user") + text(8, "user") + text(9, number(1, 1767323045) + number(2, 678)) + text(10, "/g")
            + text(11, text(1, "author") + text(2, "me")) + number(12, 1))


# In the order of protobuf_schema.cpp's methods.
config = text(1, "/bin/bash") + text(2, "-c") + text(2, "true") + text(3, text(1, "A") + text(2, "1")) + text(4, "/tmp")
selector = text(1, number(1, 4711))
size = text(2, text(1, number(1, 80) + number(2, 24)))
REQUESTS = [
    b"", selector, text(1, config) + size + text(3, "tag") + number(4, 0), selector + size,
    text(2, text(2, text(1, b"\xff\x00"))), selector + text(2, text(2, b"ls\n")), selector + number(2, 15), selector,
    text(1, "/"), text(1, "/new"), text(1, "/a") + text(2, "/b"), text(1, "/") + number(2, 3), text(1, "/old"),
    text(1, "/") + number(2, 1) + number(3, 1) + number(4, 1), text(1, "/"), text(1, "wabc"), text(1, "wabc")]
events = [text(1, number(1, 4711)), text(2, text(1, "out")), text(3, number(1, 5) + number(2, 1) + text(3, "exit status 3")),
          text(4, b"")]
RESPONSES = {0: [text(1, text(1, config) + number(2, 5) + text(3, "t"))], 1: [text(1, e) for e in events],
             8: [text(1, entry())], 11: [text(1, entry()) * 2],
             13: [text(1, b""), text(2, text(1, "f") + number(2, 1) + text(3, entry()))], 15: [text(1, text(1, "f"))]}
JSON = {0: '{"processes":[{"config":{"cmd":"a","args":["b"],"envs":{"A":"1"},"cwd":"/"},"pid":5,"tag":"t"}]}',
        2: '{"event":{"end":{"exitCode":-1,"exited":false,"status":"signal: killed","error":"signal: killed"}}}',
        8: '{"entry":{"name":"f","type":"FILE_TYPE_FILE","size":"5","mode":420,"modifiedTime":"2026-01-02T03:04:05.000000678Z",'
           '"symlinkTarget":"/g","metadata":{"author":"me"},"isSymlink":true}}',
        13: '{"filesystem":{"name":"f","type":"EVENT_TYPE_CREATE"}}'}


def protobuf():
    for index, wire in enumerate(REQUESTS):
        yield bytes([index * 4 + 1]) + wire
    for index, wires in RESPONSES.items():
        for wire in wires:
            yield bytes([index * 4]) + wire
    for index, json in JSON.items():
        yield bytes([index * 4 + 2]) + json.encode()


def connect():
    for index, wire in enumerate(REQUESTS):
        yield bytes([index * 2 + 1, 7]) + envelope(wire) + envelope(gzip.compress(wire), 1)
    for json in (b'{"path":"a","process":{"cmd":"x","args":["y"],"envs":{"k":"v"}},"depth":"2"}', b'{"process":{"pid":5}}'):
        yield bytes([4, 15]) + envelope(json) + envelope(gzip.compress(json), 1)
        yield bytes([4, 3]) + envelope(gzip.compress(json) + gzip.compress(b" "), 1) + envelope(b"{}", 2)


def files_request():
    yield from (b"bytes=0-4", b"bytes=-5", b"bytes=5-", b"gzip;q=0.5, identity;q=0, *", b"Fri, 02 Jan 2026 03:04:05 GMT",
                b"Fri, 02 Jan 2    03:04:05 GMT", b"Tue, 01 Jan 999 00:00:00 GMT",
                b"2026-01-02T03:04:05.678+02:00", b'multipart/form-data; boundary="a b"',
                b"path=/a&username=u&signature=v1_abc&signature_expiration=1767323045")


def multipart():
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\ndata\r\n'
    yield part % b"a.txt" + part % b"=?utf-8?Q?na=C3=AFve?=" + b"--b--\r\n"
    yield b"--b\r\nContent-Disposition: form-data; name=x; filename*=utf-8''a%20b\r\n\r\n--b--"
    yield b'form-data; name="f"; filename="a\\"b"'


def http_head():
    yield b"\x11POST /files?path=%2Fa HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    yield b"\x23POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"
    yield b"\x00GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n"


def api():
    create = b'{"templateID":"base","timeout":300,"metadata":{"a":"b"},"envVars":{"A":"1"},"autoPause":true}'
    yield from (b"\0" + create, b"\1" + b'{"timeout":15}', b"\2" + b'{"name":"a","rootfs":"a.ext4","cpuCount":2}',
                b"\3" + b"metadata=a%3Db&state=running,paused&limit=5&nextToken=x", b"\4" + b"MjAyNi0wMS0wMlQwMw",
                b"\5" + b"49983-iabcd0123456789abcdef.example.com", b"\5" + b"s/iabcd0123456789abcdef/80/x?y")


def noise():
    """For targets whose input is a list of operations."""
    source = random.Random(1)
    for length in (16, 64, 256, 1024):
        for _ in range(4):
            yield bytes(source.choice((0, 1, 2, 3, source.randrange(256))) for _ in range(length))


def main():
    target, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    seeds = globals().get(target)
    for index, seed in enumerate(seeds() if seeds else noise()):
        (directory / f"seed-{index:02}").write_bytes(seed)


main()
