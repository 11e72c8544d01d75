"""Files for the recipients of age plugins: encrypted and decrypted by the program ``age``, which runs the plugins.

age (1.1.0 and later) starts ``age-plugin-NAME`` and asks on the terminal for what that needs: a PIN, a touch.
"""

import os
from collections.abc import Collection, Sequence
from io import BytesIO

from smallkube.core import process
from smallkube.core.errors import SmallkubeError, UsageError, split_lines
from smallkube.core.process import Result, Sink, Source
from smallkube.inventory.admins import plugin_of
from smallkube.secrets.age_identities import PluginIdentity

AGE = "age"
SECONDS = 3600.0
"""For one file: a backup passes at the speed of the network, and a person may have to be waited for."""
_NO_MATCH = "no identity matched any of the recipients"
"""age's words for it (cmd/age, 1.1.1)."""


class NoMatch(Exception):
    """None of the identities opens the file."""


def encrypt(source: Source, sink: Sink, recipients: Sequence[str]) -> None:
    """Encrypt what ``source`` has. Raises UsageError when age or a plugin is not installed, and SmallkubeError."""
    argv = [AGE, "--encrypt", *(word for each in recipients for word in ("--recipient", each))]
    names = {plugin_of(each) for each in recipients} - {""}
    result = _run(argv, source, sink, names)
    if not result.ok:
        raise _refusal(result, names, "can't be encrypted")


def encrypt_bytes(plaintext: bytes, recipients: Sequence[str]) -> bytes:
    """The same of bytes."""
    sink = BytesIO()
    encrypt(BytesIO(plaintext), sink, recipients)
    return sink.getvalue()


def decrypt(source: Source, sink: Sink, identities: Collection[PluginIdentity]) -> None:
    """Decrypt an age file; what reached ``sink`` before an error counts for nothing.

    Raises NoMatch, UsageError when age or a plugin is not installed, and SmallkubeError.
    """
    names = {plugin_of(each.recipient) for each in identities}
    reading, writing = os.pipe()
    try:
        with open(writing, "w") as file:  # noqa: PTH123 - a pipe, which holds far more than these lines
            file.writelines(f"{each.line}\n" for each in identities)
        argv = [AGE, "--decrypt", "--identity", f"/dev/fd/{reading}"]
        result = _run(argv, source, sink, names, (reading,))
    finally:
        os.close(reading)
    if not result.ok:
        if _NO_MATCH in result.stderr:
            raise NoMatch
        raise _refusal(result, names, "can't be decrypted")


def _run(argv: list[str], source: Source, sink: Sink, plugins: Collection[str], fds: Sequence[int] = ()) -> Result:
    try:
        return process.run_filter(argv, source, sink, timeout=SECONDS, pass_fds=fds)
    except process.NotStarted as error:
        hint = "install the package age"
        raise UsageError(
            f"not found, and required for the age plugin {', '.join(plugins)}", where=AGE, hint=hint
        ) from error


def _refusal(result: Result, plugins: Collection[str], what: str) -> SmallkubeError:
    """In one line: a plugin that is not installed, else the first words of age."""
    for name in sorted(plugins):
        if not process.find(program := f"age-plugin-{name}"):
            hint = "install this age plugin, or use another identity (SMALLKUBE_IDENTITY)"
            return UsageError("not found in PATH", where=program, hint=hint)
    lines = [line.removeprefix("age: ").removeprefix("error: ") for line in split_lines(result.stderr) if line.strip()]
    return SmallkubeError(f"{what}: {lines[0] if lines else f'age ended with status {result.status}'}", where=AGE)
