"""Proves when a rebuilt cluster counts as back, and that a host key is only taken for the fingerprint that was read."""

from datetime import UTC, datetime, timedelta

import pytest

from smallkube.core.errors import UsageError
from smallkube.core.workspace import Workspace
from smallkube.inventory.load import load
from smallkube.kube.kubectl import Api, Lease, Member
from smallkube.operations.rebuild import check_fingerprint, is_back
from smallkube.secrets.scan import Scanned, State
from smallkube.secrets.ssh_keys import parse_host_key

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)
READY = Member(ready=True, cordoned=False, left_cordoned=False, kubelet="v1.34.2")
SICK = Member(ready=False, cordoned=False, left_cordoned=False, kubelet="v1.34.2")
FRESH, STALE = Lease(BEGAN + timedelta(seconds=1), 40), Lease(BEGAN - timedelta(hours=1), 40)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKuln964CDvuGUSVZqHhUY1et7pPXWWNyKqTze0Zd9Rr"


@pytest.mark.parametrize(
    ("found", "back"),
    [
        (Api("v1.34.2", (), {"n": READY}, {"n": FRESH}), True),
        (Api("v1.34.2", (), {"n": READY}, {"n": STALE}), False),
        (Api("v1.34.2", (), {"n": READY}, {}), False),
        (Api("v1.34.2", (), {"n": SICK}, {"n": FRESH}), False),
        (Api("v1.34.2", (), {"m": READY}, {"n": FRESH}), False),
        (Api(), False),
    ],
)
def test_what_the_backup_says_of_a_node_does_not_count(found: Api, back: bool) -> None:
    assert is_back(found, "n", BEGAN) is back


def test_only_the_fingerprint_that_was_read_is_trusted(workspace: Workspace) -> None:
    key = parse_host_key(KEY, "test")
    scanned = Scanned(load(workspace.inventory_file).primary, State.CHANGED, key)
    check_fingerprint(scanned, key.fingerprint)
    with pytest.raises(UsageError, match="not SHA256:other"):
        check_fingerprint(scanned, "SHA256:other")
