#!/usr/bin/env python3
"""A kvstore client, written from docs/protocol.md alone, with nothing but the standard library.

    client.py HOST:PORT[,...] put KEY VALUE | get KEY | delete KEY | cas KEY OLD NEW | scan [PREFIX] | load SECONDS

`load` writes one counter after the other and reads all of them at the end: kill leaders meanwhile.
"""
import random, socket, struct, sys, time

HELLO, WELCOME, REQUEST, RESPONSE = 2, 3, 6, 7
REFUSED, NOT_LEADER, NO_LEADER, BUSY, EXPIRED, LOST = 8, 1, 2, 3, 7, 9
NOTHING = b"\x00"

class Refused(Exception): """Certainly not applied."""
class Unknown(Exception): """Perhaps applied; the same client id and sequence would tell."""

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF

def frame(kind, payload=b""):
    head = b"KV\x01" + struct.pack("<BI", kind, len(payload))
    return head + struct.pack("<I", crc32c(head + payload)) + payload

def blob(data):
    return struct.pack("<I", len(data)) + data

class Fields:
    """Takes values off the front of a payload."""
    def __init__(self, data): self.data = data
    def take(self, count):
        taken, self.data = self.data[:count], self.data[count:]
        assert len(taken) == count, "cut short"
        return taken
    def u8(self): return self.take(1)[0]
    def u32(self): return struct.unpack("<I", self.take(4))[0]
    def u64(self): return struct.unpack("<Q", self.take(8))[0]
    def blob(self): return self.take(self.u32())
    def option(self, read): return read() if self.u8() else None
    def list(self, read): return [read() for _ in range(self.u32())]
    def member(self): return self.u64(), self.blob().decode()

class Connection:
    """One node: hello said, welcome read."""
    def __init__(self, address, timeout):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(frame(HELLO))
        welcome = self.read(WELCOME, timeout)
        welcome.option(lambda: welcome.take(16))
        self.node, self.cluster_time, _, self.term = (welcome.u64() for _ in range(4))
        self.leader, self.members = welcome.option(welcome.u64), dict(welcome.list(welcome.member))

    def read(self, wanted, timeout):
        self.socket.settimeout(timeout)
        head = self.exactly(12)
        magic, kind, length, checksum = struct.unpack("<3sBII", head)
        assert magic == b"KV\x01" and length <= 2_105_344, "not this protocol"
        payload = self.exactly(length)
        assert checksum == crc32c(head[:8] + payload) and kind == wanted, f"frame {kind}: {payload[:200]}"
        return Fields(payload)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

class Client:
    def __init__(self, addresses, timeout=5.0):
        self.addresses, self.timeout, self.connections = list(addresses), timeout, {}
        self.leader, self.leader_term, self.silent = None, 0, NOTHING  # leader: its address
        self.identity, self.sequence, self.request_id = None, 0, 0

    def put(self, key, value): return self.write(b"\x01" + blob(key) + blob(value))
    def delete(self, key): return self.write(b"\x02" + blob(key))
    def cas(self, key, old, new): return self.write(b"\x03" + blob(key) + b"\x01" + blob(old) + blob(new))
    def get(self, key):
        answer = self.call(lambda _: b"\x02" + blob(key) + NOTHING, write=False)
        return answer.option(answer.blob)

    def scan(self, prefix=b""):
        after, more = NOTHING, True
        while more:
            answer = self.call(lambda _: b"\x03" + blob(prefix) + after + struct.pack("<IB", 10_000, 0), write=False)
            rows = answer.list(lambda: (answer.blob(), answer.blob()))
            yield from rows
            more, after = answer.u8(), b"\x01" + blob(rows[-1][0]) if rows else NOTHING

    def write(self, operation):
        """Waits for each answer, so a write acknowledges all before it. One of unknown outcome keeps its id to itself."""
        self.sequence += 1
        def body(connection):
            if self.identity is None:
                self.identity = struct.pack("<BQQ", 0, connection.cluster_time, random.getrandbits(64))
            return b"\x01" + self.identity + struct.pack("<QQ", self.sequence, self.sequence) + operation
        try:
            answer = self.call(body, write=True)
        except Unknown:
            self.forget_identity()
            raise
        outcome = answer.u8()
        return ("done", "not found", "mismatch")[outcome], answer.option(answer.blob) if outcome == 2 else None

    def call(self, body, write):
        """Asks one node after the other, for a write the leader first, until one gives a result."""
        deadline, doubt, turn, self.silent = time.monotonic() + self.timeout, False, 0, NOTHING
        while (left := deadline - time.monotonic()) > 0:
            leads = write and self.leader is not None
            address, sent = self.leader if leads else self.addresses[turn % len(self.addresses)], False
            turn += not leads
            try:
                connection = self.connect(address, min(left, 0.3))
                self.request_id += 1
                request = struct.pack("<QI", self.request_id, int(left * 1000)) + self.silent + body(connection)
                sent = write
                connection.socket.sendall(frame(REQUEST, request))
                answer = self.answer(connection, min(left, 0.1 if leads else 0.25))
            except (OSError, AssertionError):  # dead or silent: the next node, and tell it who
                doubt |= sent
                self.connections.pop(address, None)
                if leads:
                    self.leader, self.silent = None, self.name_silent(address)
                continue
            if answer.u8() != REFUSED:
                self.leader = address if write else self.leader
                return answer
            code = answer.u8()
            doubt |= code == LOST
            if code in (NOT_LEADER, NO_LEADER, BUSY, LOST):
                self.leader = None if leads and code != BUSY else self.leader
                if code == NOT_LEADER:
                    term, leader = answer.u64(), answer.option(answer.member)
                    self.hear(term, leader[1] if leader else None)
                if code == BUSY or self.leader is None and turn % len(self.addresses) == 0:
                    time.sleep(random.uniform(0.01, 0.02))
            elif code == EXPIRED and not doubt:
                self.forget_identity()
                self.sequence = 1
            else:
                raise (Unknown if doubt else Refused)(f"code {code}")
        raise (Unknown if doubt else Refused)("no answer before the deadline")

    def forget_identity(self):
        self.identity, self.sequence, self.connections = None, 0, {}  # a new id needs a fresh welcome

    def answer(self, connection, patience):
        while True:
            fields = connection.read(RESPONSE, patience)
            request, _revision = fields.u64(), fields.u64()
            if request == self.request_id:
                return fields

    def connect(self, address, timeout):
        if address not in self.connections:
            connection = self.connections[address] = Connection(address, timeout)
            self.addresses += [known for known in connection.members.values() if known not in self.addresses + [""]]
            self.hear(connection.term, connection.members.get(connection.leader))
        return self.connections[address]

    def hear(self, term, address):
        """Only news is followed, so that two nodes which name each other cannot keep us running."""
        if address and term > self.leader_term:
            self.leader, self.leader_term = address, term

    def name_silent(self, address):
        members = [member for connection in self.connections.values() for member in connection.members.items()]
        nodes = [node for node, known in members if known == address]
        return b"\x01" + struct.pack("<QQ", nodes[0], self.leader_term) if nodes else NOTHING

def load(client, seconds):
    count, slowest, end = 0, 0.0, time.monotonic() + float(seconds)
    while (began := time.monotonic()) < end:
        client.put(b"load-%08d" % count, b"%d" % count)
        count, slowest = count + 1, max(slowest, time.monotonic() - began)
    rows = dict(client.scan(b"load-"))
    assert all(rows.get(b"load-%08d" % n) == b"%d" % n for n in range(count)), "a write was lost"
    return f"{count} puts acknowledged, all there; the slowest took {slowest * 1000:.0f} ms"

def main(addresses, command, *words):
    client = Client(addresses.split(","))
    words = [word.encode() for word in words]
    if command == "scan":
        for key, value in client.scan(*words):
            print(key.decode(), value.decode(), sep="\t")
    else:
        print(load(client, *words) if command == "load" else getattr(client, command)(*words))

if __name__ == "__main__":
    main(*sys.argv[1:])
