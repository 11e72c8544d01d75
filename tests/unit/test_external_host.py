"""Whether the API server's name is a real one and answers, and that inventory.check says so without failing."""

import json
import socket
import threading

import pytest

from smallkube.cli.program import main
from smallkube.core.workspace import Workspace
from smallkube.inventory import external_host


@pytest.mark.parametrize("host", ["test-kube.example.com", "example.org", "kube.example", "a.b.test", "x.invalid"])
def test_a_reserved_name_is_a_placeholder(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "create_connection")
    assert external_host.fault(host, 6443) == f"{host} is a placeholder"


def test_what_answers_is_no_fault_and_what_is_closed_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert external_host.fault("localhost", port) == ""
    assert external_host.fault("localhost", port) == f"localhost:{port} is not reachable from here (Connection refused)"


def test_a_name_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def silent(*_: object) -> None:
        never.wait()
        raise OSError

    monkeypatch.setattr(external_host, "SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", silent)
    assert "not reachable from here (no answer)" in external_host.fault("notexample.com", 6443)
    never.set()


def test_inventory_check_warns_of_a_placeholder(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALLKUBE_WORKSPACE", str(workspace.root))
    main(["smallkube", "inventory.check"])
    output, errors = capsys.readouterr()
    assert output == "inventory.yaml: valid, 2 nodes\n"
    assert errors.startswith("warning: cluster.api.external_host: test-kube.example.com is a placeholder; ")
    assert "inv cluster.connect" in errors
    main(["smallkube", "inventory.check", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "problems": [],
        "warnings": ["cluster.api.external_host: test-kube.example.com is a placeholder"],
    }
