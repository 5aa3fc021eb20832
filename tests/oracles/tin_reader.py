#!/usr/bin/python3
"""Reads a disk out of a repository of backups or out of a .tin file; shares no code with Tintype.

    tin_reader.py list REPOSITORY|FILE.tin
    tin_reader.py digest REPOSITORY|FILE.tin [SNAPSHOT [DISK]]      <sha256 of the disk> <size in bytes>
    tin_reader.py write REPOSITORY|FILE.tin SNAPSHOT DISK TO.raw

SNAPSHOT is a name, NAME@ID or an id; without it the newest is taken, and without DISK the only disk or the first. The
password stands in the variable TINTYPE_PASSWORD; without it only what is not encrypted opens. Every signature,
check and id is compared, and nothing is repaired: whatever is wrong ends the program with exit code 1 and a message.

Written from src/repository/FORMAT.md and formats/src/tin/SPEC.md alone: if those pages stop saying what Tintype does,
a test that runs this program fails. "§" are sections of FORMAT.md. Needs Debian's python3-cryptography, python3-argon2
and python3-zstandard. BLAKE3 is in here, in Python: this is for small fixtures.
"""

import hashlib
import hmac
import json
import os
import re
import struct
import sys

import argon2.low_level
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ID = re.compile("[0-9a-f]{32}")
ROTATION_NAME = re.compile(r"[0-9]{8}\.rotation")
ROLES = {1: "write", 2: "read", 3: "maintain", 4: "admin", 5: "use"}
REPOSITORY, TABLE, MANIFEST, TOMBSTONE, SESSION_END, DIRECTORY, ROTATION = 1, 2, 4, 5, 7, 13, 16
ONLY_MAINTAINERS = {REPOSITORY, TOMBSTONE, 8, 9, 10, 11}
NOT_READERS = {TABLE, 3, MANIFEST}
RECOVERY_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
FANOUT = 1024
HOLE, ZERO, DATA = 0, 1, 2


class Wrong(Exception):
    """What is read is not as the specification says."""


def need(condition, message):
    if not condition:
        raise Wrong(message)


class Bytes:
    """Takes fields off the front of some bytes."""

    def __init__(self, content, what):
        self.content, self.at, self.what = content, 0, what

    def take(self, length):
        need(self.at + length <= len(self.content), f"{self.what}: ends too early")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, length):
        return int.from_bytes(self.take(length), "little")

    def zero(self, length):
        need(not any(self.take(length)), f"{self.what}: a reserved field is not zero")

    def end(self):
        need(self.at == len(self.content), f"{self.what}: {len(self.content) - self.at} bytes too many")


# BLAKE3

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, DERIVE_CONTEXT, DERIVE_KEY = 1, 2, 4, 8, 16, 32, 64
MIXED = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
SCHEDULE = [tuple(range(16))]
for _ in range(6):
    SCHEDULE.append(tuple(SCHEDULE[-1][place] for place in PERMUTATION))


def compress(value, block, counter, length, flags):
    """The 16 words that a block of 16 words becomes."""
    v = [*value, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for order in SCHEDULE:
        for number, (a, b, c, d) in enumerate(MIXED):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = (va + vb + block[order[2 * number]]) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 16 | vd << 16) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 12 | vb << 20) & 0xFFFFFFFF
            va = (va + vb + block[order[2 * number + 1]]) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 8 | vd << 24) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 7 | vb << 25) & 0xFFFFFFFF
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ value[i] for i in range(8)]


def words(content):
    return struct.unpack("<16I", content.ljust(64, b"\0"))


def chunk_node(key, content, counter, flags):
    """The last, unfinished compression of a chunk of up to 1,024 bytes."""
    value, last = key, max(0, (len(content) - 1) // 64)
    for number in range(last):
        start = CHUNK_START if number == 0 else 0
        value = compress(value, words(content[64 * number : 64 * number + 64]), counter, 64, flags | start)[:8]
    tail = content[64 * last :]
    return value, words(tail), counter, len(tail), flags | CHUNK_END | (CHUNK_START if last == 0 else 0)


def tree_node(key, content, counter, flags):
    """The unfinished compression of a subtree: the left side has the largest power of two of chunks that leaves some."""
    if len(content) <= 1024:
        return chunk_node(key, content, counter, flags)
    left = 1 << ((len(content) - 1) // 1024).bit_length() - 1
    sides = [tree_node(key, content[: left * 1024], counter, flags),
             tree_node(key, content[left * 1024 :], counter + left, flags)]
    block = tuple(word for side in sides for word in compress(*side)[:8])
    return key, block, 0, 64, flags | PARENT


def blake3_with(key, content, flags):
    value, block, _, length, flags = tree_node(key, content, 0, flags)
    return struct.pack("<8I", *compress(value, block, 0, length, flags | ROOT)[:8])


def blake3(content):
    return blake3_with(IV, content, 0)


def blake3_keyed(key, content):
    return blake3_with(struct.unpack("<8I", key), content, KEYED)


def blake3_derive(context, content):
    key = blake3_with(IV, context.encode(), DERIVE_CONTEXT)
    return blake3_with(struct.unpack("<8I", key), content, DERIVE_KEY)


# HPKE (RFC 9180), base mode, opening one message: §5


def extract(salt, suite, label, secret):
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(key, suite, label, info, length):
    """At most 32 bytes, so one round of HKDF-Expand."""
    labelled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, labelled + b"\1", "sha256")[:length]


def hpke_open(private, encapsulated, sealed, info):
    recipient = X25519PrivateKey.from_private_bytes(private)
    shared = recipient.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    kem = b"KEM" + struct.pack(">H", 0x20)
    context = encapsulated + public_of(recipient)
    shared = expand(extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret", context, 32)
    suite = b"HPKE" + struct.pack(">HHH", 0x20, 1, 2)
    context = b"\0" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", info)
    secret = extract(shared, suite, b"secret", b"")
    nonce = expand(secret, suite, b"base_nonce", context, 12)
    return AESGCM(expand(secret, suite, b"key", context, 32)).decrypt(nonce, sealed, None)


def public_of(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# Keys: §4


class Certificate:
    def __init__(self, content, root, repository):
        fields = Bytes(content, "certificate")
        self.role = ROLES.get(fields.number(1))
        length = fields.number(1)
        need(self.role and length, "certificate: no such role, or no name")
        self.name = fields.take(length).decode()
        self.signing, self.host = fields.take(32), fields.take(32)
        signed = content[: fields.at]
        message = b"tintype certificate 1\0" + repository + signed
        Ed25519PublicKey.from_public_bytes(root).verify(fields.take(64), message)
        fields.end()


class Keys:
    """A key ring: what a slot holds."""

    def __init__(self, ring, repository, role):
        self.repository = repository
        self.root, self.id_key = bytes.fromhex(ring["root"]), bytes.fromhex(ring["id_key"])
        self.map_id_key = blake3_derive("tintype map page 1", self.id_key)
        self.private = {}
        for name in ["data", "map"]:
            need(1 <= len(ring[name]) <= 64, f"key ring: {len(ring[name])} keys for {name}")
            for pair in ring[name]:
                if pair.get("private"):
                    self.add(pair["private"], pair["public"])
        certificate = Certificate(bytes.fromhex(ring["certificate"]), self.root, repository)
        need(role == ring["role"] == certificate.role, "key slot: its roles do not agree")
        self.add(ring["host_private"], certificate.host.hex())
        self.certificate_hash = blake3(bytes.fromhex(ring["certificate"]))
        self.host = blake3(certificate.host)[:16]
        seed = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ring["signing_seed"]))
        need(public_of(seed) == certificate.signing, "key ring: the signing key is not the certificate's")

    def add(self, private, public):
        private, public = bytes.fromhex(private), bytes.fromhex(public)
        need(public_of(X25519PrivateKey.from_private_bytes(private)) == public, "key ring: a key is not its public one")
        self.private[blake3(public)[:16]] = private

    def rotate(self, number, body):
        """Takes what a rotation has for this holder."""
        fields = Bytes(body, f"rotation {number}")
        holders = fields.number(4)
        need(holders <= 1024, f"rotation {number}: {holders} holders")
        for _ in range(holders):
            holder, encapsulated = fields.take(16), fields.take(32)
            length = fields.number(4)
            need(length <= 4096, f"rotation {number}: a part of {length} bytes")
            sealed = fields.take(length)
            if holder == self.host:
                info = b"tintype rotation 1\0" + self.repository + struct.pack("<I", number) + self.certificate_hash
                for pair in json.loads(hpke_open(self.private[holder], encapsulated, sealed, info)).values():
                    if pair.get("private"):
                        self.add(pair["private"], pair["public"])
        fields.end()

    def segment_key(self, record, purpose):
        fields = Bytes(record, "segment record")
        segment, recipients = fields.take(16), fields.number(2)
        fields.zero(2)
        info = b"tintype segment 1\0" + bytes([purpose]) + self.repository + segment
        for _ in range(recipients):
            key, encapsulated, sealed = fields.take(16), fields.take(32), fields.take(48)
            if key in self.private:
                return segment, hpke_open(self.private[key], encapsulated, sealed, info)
        raise Wrong(f"segment {segment.hex()}: this key does not open it")


def take_segment_record(fields):
    start = fields.at
    fields.take(16)
    recipients = fields.number(2)
    need(1 <= recipients <= 64, f"segment record: {recipients} recipients")
    fields.zero(2)
    fields.take(recipients * 96)
    return fields.content[start : fields.at]


def recovery_letters(typed):
    """The letters of a recovery key, or nothing if what was typed is none."""
    letters = "".join(typed.decode(errors="replace").lower().replace("-", " ").split())
    if len(letters) != 32 or not set(letters) <= set(RECOVERY_LETTERS):
        return None
    remainder = 0
    for letter in letters:
        remainder = remainder << 1 ^ RECOVERY_LETTERS.index(letter)
        if remainder & 32:
            remainder ^= 0b100101
    return letters.encode() if remainder == 0 else None


def open_slot(content, passphrase):
    """The key ring of a slot, or nothing if this passphrase does not open it."""
    fields = Bytes(content, "key slot")
    need(fields.take(8) == b"TINKEY1\n" and fields.number(2) == 1, "key slot: not one of version 1")
    how, role = fields.number(1), fields.number(1)
    memory, passes, lanes = fields.number(4), fields.number(4), fields.number(4)
    repository, salt, nonce = fields.take(16), fields.take(32), fields.take(12)
    fields.take(fields.number(1))
    length = fields.number(4)
    header = content[: fields.at]
    sealed = fields.take(length)
    fields.end()
    if (how == 2) != (passphrase is None):
        return None
    if how == 2:
        need(memory == passes == lanes == 0, "key slot: a public one with costs")
        key = blake3_derive("tintype no encryption 1", repository + salt)
    else:
        need(how in (1, 3), f"key slot: opened in an unknown way, {how}")
        if how == 3:
            passphrase = recovery_letters(passphrase)
            if passphrase is None:
                return None
        need(memory <= 4194304 and passes <= 1000 and memory * passes <= 67108864 and lanes <= 64, "key slot: too dear")
        kind = argon2.low_level.Type.ID
        key = argon2.low_level.hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, kind, 0x13)
    try:
        ring = json.loads(AESGCM(key).decrypt(nonce, sealed, header))
    except Exception as error:
        if type(error).__name__ == "InvalidTag":
            return None
        raise
    keys = Keys(ring, repository, ROLES.get(role))
    need(how != 2 or keys.root == public_root(repository), "key slot: a public one with other than the public keys")
    return keys


def public_root(repository):
    return public_of(Ed25519PrivateKey.from_private_bytes(blake3_derive("tintype public root 1", repository)))


def public_keys(repository):
    """The keys of what is not encrypted: anybody can make them."""
    derived = {name: blake3_derive(f"tintype public {name} 1", repository) for name in
               ["root", "signing", "host", "id", "data", "map"]}
    pair = lambda name: {"private": derived[name].hex(), "public": exchange(derived[name]).hex()}
    exchange = lambda private: public_of(X25519PrivateKey.from_private_bytes(private))
    root = Ed25519PrivateKey.from_private_bytes(derived["root"])
    signing = public_of(Ed25519PrivateKey.from_private_bytes(derived["signing"]))
    certificate = b"\4\6public" + signing + exchange(derived["host"])
    certificate += root.sign(b"tintype certificate 1\0" + repository + certificate)
    ring = {"role": "admin", "root": public_of(root).hex(), "id_key": derived["id"].hex(), "data": [pair("data")],
            "map": [pair("map")], "host_private": derived["host"].hex(), "signing_seed": derived["signing"].hex(),
            "certificate": certificate.hex()}
    return Keys(ring, repository, "admin")


# Signed objects and packs: §2, §6, §7


def open_object(content, kind, name, keys):
    """The body of a signed object and its signer's certificate."""
    fields = Bytes(content, name)
    need(fields.take(8) == b"TINOBJ1\n" and fields.number(2) == 1, f"{name}: not an object of version 1")
    need(fields.number(2) == kind, f"{name}: an object of another kind")
    length = fields.number(4)
    need(fields.take(16) == keys.repository, f"{name}: belongs to another repository")
    body = fields.take(length)
    certificate = Certificate(fields.take(fields.number(2)), keys.root, keys.repository)
    message = b"tintype object 1\0" + name.encode() + b"\0" + blake3(content[: fields.at])
    Ed25519PublicKey.from_public_bytes(certificate.signing).verify(fields.take(64), message)
    fields.end()
    need(kind not in ONLY_MAINTAINERS or certificate.role in ("maintain", "admin"), f"{name}: signed by a lesser role")
    need(kind not in NOT_READERS or certificate.role != "read", f"{name}: signed by a role that adds nothing")
    return body, certificate


class Pack:
    """A pack that was read and checked: where its chunks are, and who can open its segments."""

    def __init__(self, content, pack, keys):
        self.content, self.keys, what = content, keys, f"pack {pack.hex()}"
        need(len(content) >= 32, f"{what}: too short")
        tail = Bytes(content[-32:], what)
        need(tail.take(8) == b"TINTAIL1", f"{what}: no trailer")
        offset, length, check = tail.number(8), tail.number(8), tail.take(8)
        need(check == blake3(content[-32:-8])[:8], f"{what}: its trailer is damaged")
        need(offset + length + 32 == len(content), f"{what}: its table is not at its end")
        fields = Bytes(content[:offset], what)
        need(fields.take(8) == b"TINPACK1" and fields.number(2) == 1, f"{what}: not one of version 1")
        self.kind, header = fields.number(2), fields.number(4)
        need(fields.take(16) == keys.repository and fields.take(16) == pack, f"{what}: belongs elsewhere")
        records = fields.number(4)
        fields.zero(4)
        self.records = {}
        for _ in range(records):
            record = take_segment_record(fields)
            self.records[record[:16]] = record
        need(fields.at + 32 == header, f"{what}: its header has another length")
        need(fields.take(32) == blake3(content[: header - 32]), f"{what}: its header is damaged")
        body, signer = open_object(content[offset:-32], TABLE, f"packs/{pack.hex()[:2]}/{pack.hex()}", keys)
        self.check_table(Bytes(body, what), signer, header, offset)

    def check_table(self, table, signer, begin, end):
        self.chunks = {}
        author = Certificate(table.take(table.number(2)), self.keys.root, self.keys.repository)
        need(author.role != "read", f"{table.what}: its author adds nothing")
        need(author.signing == signer.signing or signer.role in ("maintain", "admin"), f"{table.what}: not its author's")
        for _ in range(table.number(4)):
            offset, header = table.number(4), table.take(104)
            need(offset == begin, f"{table.what}: a gap before a chunk at {offset}")
            need(self.content[offset : offset + 104] == header, f"{table.what}: the table has another chunk at {offset}")
            length = 104 + int.from_bytes(header[12:16], "little")
            self.chunks[header[40:72]] = (offset, length)
            begin += length
        need(begin == end, f"{table.what}: a gap after the last chunk")
        table.end()

    def chunk(self, offset, length, expected):
        """The plain bytes of a chunk; `expected` is its id."""
        what = f"chunk {expected.hex()}"
        content = self.content[offset : offset + length]
        fields = Bytes(content, what)
        need(fields.take(4) == b"TCHK", f"{what}: there is none")
        kind, codec = fields.number(1), fields.number(1)
        fields.zero(2)
        plain_length, stored_length = fields.number(4), fields.number(4)
        segment, number = fields.take(16), fields.number(4)
        fields.zero(4)
        need(fields.take(32) == expected, f"{what}: there is another one")
        check, stored = fields.take(32), fields.take(stored_length)
        fields.end()
        need(check == blake3(content[:72] + stored), f"{what}: it is damaged")
        need(kind == self.kind and plain_length <= 8 << 20 and stored_length <= plain_length + 16, f"{what}: impossible")
        need(segment in self.records, f"{what}: its pack lacks its segment")
        _, key = self.keys.segment_key(self.records[segment], kind)
        plain = AESGCM(key).decrypt(number.to_bytes(12, "little"), stored, content[:72])
        if codec == 1:
            plain = zstandard.ZstdDecompressor().decompress(plain, max_output_size=plain_length)
        need(codec <= 1 and len(plain) == plain_length, f"{what}: another length than it says")
        return plain


# Where objects are: a folder, or a .tin file


class Folder:
    """A repository: §1."""

    def __init__(self, path):
        self.path = path
        self.chunk_bytes = None

    def read(self, name):
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def exists(self, name):
        return os.path.exists(os.path.join(self.path, name))

    def names(self, folder):
        try:
            return sorted(name for name in os.listdir(os.path.join(self.path, folder)) if ID.fullmatch(name))
        except FileNotFoundError:
            return []

    def slots(self):
        return [self.read(f"keys/{name}") for name in self.names("keys")]

    def start(self, keys):
        for name in sorted(os.listdir(os.path.join(self.path, "keys"))):
            if ROTATION_NAME.fullmatch(name):
                body, signer = open_object(self.read(f"keys/{name}"), ROTATION, f"keys/{name}", keys)
                need(signer.role == "admin", f"keys/{name}: signed by a lesser role")
                keys.rotate(int(name[:8]), body)
        body, _ = open_object(self.read("repository"), REPOSITORY, "repository", keys)
        config = json.loads(body)
        need(config["format"] == 1 and not config["features"]["read"], "repository: made for a newer program")
        need(config["id"] == keys.repository.hex(), "repository: another id")
        need((config["encryption"] == "none") == (keys.root == public_root(keys.repository)), "repository: other keys")
        self.chunk_bytes = config["chunk_bytes"]

    def manifests(self, keys):
        """The visible ones, §11."""
        for name in self.names("snapshots"):
            tombstone = f"snapshots/{name}.forgotten"
            if self.exists(tombstone):
                open_object(self.read(tombstone), TOMBSTONE, tombstone, keys)
                continue
            content = self.read(f"snapshots/{name}")
            body, signer = open_object(content, MANIFEST, f"snapshots/{name}", keys)
            end = f"sessions/{body[16:32].hex()}/end"
            if not self.exists(end):
                continue
            state, ender = open_object(self.read(end), SESSION_END, end, keys)
            if ender.signing == signer.signing and state == b"\1" + bytes.fromhex(name) + blake3(content):
                yield bytes.fromhex(name), body

    def packs(self):
        return [bytes.fromhex(pack) for digits in sorted(os.listdir(os.path.join(self.path, "packs")))
                for pack in self.names(f"packs/{digits}") if pack.startswith(digits)]

    def pack(self, pack):
        return self.read(f"packs/{pack.hex()[:2]}/{pack.hex()}")


class TinFile:
    """One file: SPEC.md."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.content = file.read()
        fields = Bytes(self.content, path)
        need(fields.take(8) == b"TINFILE1" and fields.number(2) == 1, f"{path}: not a .tin file of version 1")
        slots = fields.number(2)
        self.header_bytes, self.chunk_bytes = fields.number(4), fields.number(4)
        fields.zero(4)
        self.repository = fields.take(16)
        self.slot_contents = [fields.take(fields.number(4)) for _ in range(slots)]
        need(fields.take(32) == blake3(self.content[: fields.at - 32]), f"{path}: its header is damaged")
        need(fields.at == self.header_bytes, f"{path}: its header has another length")
        self.places = {}

    def slots(self):
        return self.slot_contents

    def start(self, keys):
        need(keys.repository == self.repository, "file: its keys belong to another repository")
        tail = Bytes(self.content[-32:], "trailer")
        need(tail.take(8) == b"TINEND_1", "file: no trailer; it may have been cut off")
        offset, length, check = tail.number(8), tail.number(8), tail.take(8)
        need(check == blake3(self.content[-32:-8])[:8], "file: its trailer is damaged")
        need(offset + length + 32 == len(self.content), "file: its directory is not at its end")
        body, _ = open_object(self.content[offset:-32], DIRECTORY, "directory", keys)
        fields = Bytes(body, "directory")
        need(fields.take(32) == blake3(self.content[: self.header_bytes]), "directory: made for another header")
        packs = fields.number(4)
        fields.zero(4)
        at = self.header_bytes
        for _ in range(packs):
            pack, begin, length = fields.take(16), fields.number(8), fields.number(8)
            need(begin == at, "directory: a gap between packs")
            self.places[pack] = (begin, length)
            at += length
        self.snapshot, begin, length = fields.take(16), fields.number(8), fields.number(8)
        need(begin == at and begin + length == offset, "directory: a gap around the manifest")
        self.manifest = self.content[begin:offset]
        fields.end()

    def manifests(self, keys):
        body, _ = open_object(self.manifest, MANIFEST, f"snapshots/{self.snapshot.hex()}", keys)
        yield self.snapshot, body

    def packs(self):
        return list(self.places)

    def pack(self, pack):
        begin, length = self.places[pack]
        return self.content[begin : begin + length]


# Snapshots and disks: §10


class Reader:
    def __init__(self, path):
        self.store = Folder(path) if os.path.isdir(path) else TinFile(path)
        passphrase = os.environ.get("TINTYPE_PASSWORD")
        secret = passphrase.encode() if passphrase else None
        if isinstance(self.store, TinFile) and not self.store.slots():
            self.keys = public_keys(self.store.repository)
        else:
            rings = [ring for ring in (open_slot(slot, secret) for slot in self.store.slots()) if ring]
            need(rings, "the password opens no key slot")
            self.keys = rings[0]
        self.store.start(self.keys)
        self.opened = {}

    def snapshots(self):
        """Manifests with their ids, the oldest first."""
        found = []
        for snapshot, body in self.store.manifests(self.keys):
            fields = Bytes(body, f"manifest {snapshot.hex()}")
            need(fields.take(16) == snapshot, f"{fields.what}: of another snapshot")
            session = fields.take(16)
            _, key = self.keys.segment_key(take_segment_record(fields), 3)
            sealed = fields.take(fields.number(4))
            fields.end()
            data = b"tintype manifest 1\0" + self.keys.repository + snapshot + session
            manifest = json.loads(AESGCM(key).decrypt(bytes(12), sealed, data))
            need(manifest["schema"] == 1 and not manifest["features"], f"{fields.what}: made for a newer program")
            found.append((snapshot.hex(), manifest))
        return sorted(found, key=lambda one: (one[1]["time"], one[0]))

    def resolve(self, wanted):
        for snapshot, manifest in reversed(self.snapshots()):
            name, _, start = (wanted or "").partition("@")
            if not wanted or snapshot == wanted or (name == manifest["name"] and snapshot.startswith(start)):
                return manifest
        raise Wrong(f"no snapshot {wanted}")

    def pack(self, pack):
        if pack not in self.opened:
            self.opened[pack] = Pack(self.store.pack(pack), pack, self.keys)
        return self.opened[pack]

    def chunk(self, chunk, hint):
        pack, offset, length = hint
        if pack in self.store.packs():
            return self.pack(pack).chunk(offset, length, chunk)
        # The hint is stale. An index would be faster, but the packs' tables say the same (§9).
        for other in map(self.pack, self.store.packs()):
            if chunk in other.chunks:
                return other.chunk(*other.chunks[chunk], chunk)
        raise Wrong(f"chunk {chunk.hex()} is nowhere")

    def page(self, chunk, hint, level, count):
        """The entries of a page: a state each, and for data its id and hint."""
        plain = self.chunk(chunk, hint)
        fields = Bytes(plain, f"page {chunk.hex()}")
        need(fields.number(1) == level, f"{fields.what}: another level than {level}")
        fields.zero(1)
        need(fields.number(2) == count, f"{fields.what}: other than {count} entries")
        states = fields.take(count)
        need(set(states) <= {HOLE, ZERO, DATA}, f"{fields.what}: an unknown state")
        ids = [fields.take(32) for state in states if state == DATA]
        need(blake3_keyed(self.keys.map_id_key, plain[: fields.at]) == chunk, f"{fields.what}: another id")
        packs = [fields.take(16) for _ in range(fields.number(2))]
        hints = [(packs[fields.number(2)], fields.number(4), fields.number(4)) for _ in ids]
        fields.end()
        data = iter(zip(ids, hints))
        return [next(data) if state == DATA else None for state in states]

    def disk(self, disk):
        """The disk's content, chunk by chunk."""
        chunks = -(-disk["size_bytes"] // self.store.chunk_bytes)
        if chunks == 0:
            need(disk["root"] is None, "a disk of no bytes has a map")
            return
        level = 0
        while FANOUT ** (level + 1) < chunks:
            level += 1
        root = disk["root"]
        hint = (bytes.fromhex(root["pack"]), root["offset"], root["length"])
        yield from self.below(bytes.fromhex(root["id"]), hint, level, 0, disk["size_bytes"])

    def below(self, page, hint, level, start, size):
        """The content of what a page covers, from `start` on."""
        each = self.store.chunk_bytes * FANOUT**level
        count = min(FANOUT, -(-(size - start) // each))
        for number, entry in enumerate(self.page(page, hint, level, count)):
            at = start + number * each
            length = min(each, size - at)
            if entry is None:
                yield from (bytes(min(1 << 20, length - done)) for done in range(0, length, 1 << 20))
            elif level > 0:
                yield from self.below(*entry, level - 1, at, size)
            else:
                plain = self.chunk(*entry)
                need(blake3_keyed(self.keys.id_key, plain) == entry[0], f"chunk {entry[0].hex()}: another id")
                need(len(plain) == length, f"chunk {entry[0].hex()}: {len(plain)} bytes for {length}")
                yield plain


def main(command, path, snapshot=None, disk=None, to=None):
    reader = Reader(path)
    if command == "list":
        for snapshot, manifest in reader.snapshots():
            disks = " ".join(f"{disk['name']}:{disk['size_bytes']}" for disk in manifest["disks"])
            print(snapshot, manifest["time"], manifest["name"], disks)
        return
    disks = reader.resolve(snapshot)["disks"]
    chosen = [one for one in disks if disk in (None, one["name"])]
    need(chosen, f"no disk {disk}")
    content = reader.disk(chosen[0])
    if command == "digest":
        sha256, size = hashlib.sha256(), 0
        for piece in content:
            sha256.update(piece)
            size += len(piece)
        need(size == chosen[0]["size_bytes"], f"{size} bytes in place of {chosen[0]['size_bytes']}")
        print(sha256.hexdigest(), size)
    elif command == "write" and to:
        with open(to, "xb") as file:
            for piece in content:
                file.write(piece)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"tin_reader.py: {type(error).__name__}: {error}")
