"""A plugin of age for tests alone, which protects nothing: recipient and identity are the same bytes.

It speaks the protocol of C2SP age-plugin.md on standard input and output. ``install`` makes it the program
``age-plugin-smallkubetest`` in a folder.
"""

import base64
import hashlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

NAME = "smallkubetest"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def recipient(secret: bytes) -> str:
    return _bech32(f"age1{NAME}", secret)


def identity(secret: bytes) -> str:
    return _bech32(f"age-plugin-{NAME}-", secret).upper()


def identity_file(secret: bytes) -> str:
    return f"#    Recipient: {recipient(secret)}\n{identity(secret)}\n"


def install(folder: Path) -> None:
    path = folder / f"age-plugin-{NAME}"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {shlex.quote(__file__)} "$@"\n')
    path.chmod(0o755)


def _polymod(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit in range(5):
            check ^= _GENERATOR[bit] if top >> bit & 1 else 0
    return check


def _bech32(prefix: str, secret: bytes) -> str:
    """BIP 173."""
    bits = "".join(f"{byte:08b}" for byte in secret)
    bits += "0" * (-len(bits) % 5)
    words = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    head = [*(ord(each) >> 5 for each in prefix), 0, *(ord(each) & 31 for each in prefix)]
    check = _polymod([*head, *words, *bytes(6)]) ^ 1
    words += [check >> 5 * (5 - at) & 31 for at in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[word] for word in words)}"


def _secret(text: str) -> bytes:
    words = text.lower().rpartition("1")[2][:-6]
    bits = "".join(f"{_ALPHABET.index(letter):05b}" for letter in words)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) // 8 * 8, 8))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _received() -> Iterator[tuple[list[str], bytes]]:
    """The commands of a phase, each with its body."""
    for line in iter(sys.stdin.readline, ""):
        words, body = line.split()[1:], ""
        while True:
            row = sys.stdin.readline().rstrip("\n")
            body += row
            if len(row) < 64:
                break
        if words[0] == "done":
            return
        yield words, _decoded(body)


def _send(*words: str, body: bytes = b"") -> None:
    text = _encoded(body)
    rows = [text[at : at + 64] for at in range(0, len(text) + 1, 64)]
    sys.stdout.write("\n".join([" ".join(("->", *words)), *rows, ""]))
    sys.stdout.flush()
    if words[0] != "done":
        next(_received())


def _crypt(secret: bytes, nonce: bytes, data: bytes) -> bytes:
    pad = hashlib.sha256(secret + nonce).digest()
    return bytes(a ^ b for a, b in zip(data, pad, strict=False))


def _tag(secret: bytes) -> str:
    return _encoded(hashlib.sha256(secret).digest()[:4])


def _wrap() -> None:
    recipients, keys = [], []
    for words, body in _received():
        if words[0] == "add-recipient":
            recipients.append(_secret(words[1]))
        elif words[0] == "wrap-file-key":
            keys.append(body)
    for number, key in enumerate(keys):
        for secret in recipients:
            nonce = hashlib.sha256(secret + key).digest()[:8]
            body = _crypt(secret, nonce, key)
            _send(
                "recipient-stanza",
                str(number),
                NAME,
                _encoded(hashlib.sha256(secret).digest()[:4]),
                _encoded(nonce),
                body=body,
            )
    _send("done")


def _unwrap() -> None:
    secrets, stanzas = [], []
    for words, body in _received():
        if words[0] == "add-identity":
            secrets.append(_secret(words[1]))
        elif words[0] == "recipient-stanza" and words[2] == NAME:
            stanzas.append((words[1], words[3], _decoded(words[4]), body))
    for secret in secrets:
        for number, tag, nonce, body in stanzas:
            if tag == _tag(secret):
                _send("file-key", number, body=_crypt(secret, nonce, body))
    _send("done")


if __name__ == "__main__":
    _wrap() if sys.argv[1:] == ["--age-plugin=recipient-v1"] else _unwrap()
