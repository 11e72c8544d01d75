"""Every command of docs/getting-started.md, typed as it stands there by somebody who has nothing else, on machines that
have nothing of ours; and the page that cluster.report makes of what comes of it.

A program stands for the person in the editor, and one for the network in Nix: no machine of the lab reaches GitHub.
"""

import os
import re
import sys
from pathlib import Path

import pytest

from lab import standins
from lab.cluster import Lab
from lab.network import SSH_PORT, operator_address, peer_address
from lab.places import Places
from lab.record import Record
from lab.workspace import SMOKE, peculiar
from smallkube.core import process
from smallkube.core.files import write_file
from smallkube.core.workspace import REPOSITORY, Workspace
from tests import chromium
from tests.conftest import require
from tests.typed import CTRL_C, Terminal, commands, typed

PAGE = (REPOSITORY / "docs/getting-started.md").read_text()
BLOCKS = [commands(PAGE, title) for title in re.findall(r"^## (\d.*)$", PAGE, re.M)]
"""Of the operator's machine, the machines, the cluster, and kubectl."""
EDITOR = """\
#!{python}
import pathlib, sys
for file in map(pathlib.Path, sys.argv[1:]):
    text = file.read_text()
    for old, new in {edits!r}[file.name].items():
        assert text.count(old) == 1, (file, old)
        text = text.replace(old, new)
    file.write_text(text)
"""
NIX = """\
#!/bin/sh
case " $* " in
  *" flake lock "*)
    for flake; do :; done
    exec cp {lock} "${{flake#path:}}" ;;
  *" flake metadata "* | *" eval "*)
    exec {nix} "$@" --override-input nixpkgs path:{stand_ins} --override-input agenix path:{stand_ins}/agenix ;;
esac
exec {nix} "$@"
"""


@pytest.fixture(scope="module")
def lab(environment: dict[str, str], programs: Path) -> Lab:
    """Two machines as they are before anything is deployed to them."""
    places = Places(Places.find(os.environ).cache, Path(environment["XDG_STATE_HOME"], "smallkube/lab"))
    made = Lab(places, "started")
    made.up(2, None, lambda _text: None, lambda _node, _text: None, programs)
    ours = ["sh", "-c", "ls -d /var/lib/smallkube /run/agenix 2>/dev/null"]
    assert [machine.execute(ours).stdout for machine in made.machines] == ["", ""]
    return made


def edits(numbered: Record) -> dict[str, dict[str, str]]:
    """What the person writes: file → old text → new. Of the lab: no machine of it has a registry."""
    inventory = {"\nnodes:\n": f"\n{SMOKE}\nnodes:\n"}
    for index in numbered.nodes:
        reach = f"    ssh: {{host: {operator_address(numbered.number, index)}, port: {SSH_PORT}}}\n"
        inventory[f"    peer_ip: 192.168.0.{index}\n"] = f"    peer_ip: {peer_address(index)}\n{reach}"
    own = {"\n}\n": f"\n\n{peculiar()}}}\n"}
    return {"inventory.yaml": inventory, **{f"node{index}.nix": own for index in numbered.nodes}}


@pytest.fixture(scope="module")
def person(
    environment: dict[str, str], lab: Lab, programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Their environment: a home with the SSH key that the machines let in and a name for git, an editor, kubectl."""
    home, nix, record = tmp_path_factory.mktemp("home"), process.find("nix"), lab.record
    require("cluster", nix, "nix (Debian: nix-bin)")
    assert record
    (home / ".ssh").mkdir(0o700)
    write_file(home / ".ssh/id_ed25519", lab.key.read_bytes(), 0o600)
    write_file(home / ".gitconfig", "[user]\n\tname = Operator\n\temail = operator@example.org\n")
    lock = Workspace(Path(record.workspace)).flake_lock
    (home / "bin").mkdir()
    write_file(home / "bin/editor", EDITOR.format(python=sys.executable, edits=edits(record)), 0o755)
    write_file(home / "bin/nix", NIX.format(nix=nix, lock=lock, stand_ins=standins.SOURCE), 0o755)
    (home / "bin/kubectl").symlink_to(next(programs.rglob("bin/kubectl")))
    return {**environment, "HOME": str(home), "PATH": f"{home}/bin:{environment['PATH']}", "EDITOR": "editor"}


@pytest.fixture(scope="module")
def at_work(clone: Path, person: dict[str, str]) -> dict[str, str]:
    """Their environment once they have a virtual environment."""
    return {**person, "PATH": f"{clone}/.venv/bin:{person['PATH']}"}


@pytest.fixture(scope="module")
def place(clone: Path, lab: Lab, person: dict[str, str], at_work: dict[str, str]) -> Path:
    """The workspace when the page is done but for its last block."""
    fingerprint = ("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub")
    fingerprints = [machine.check(*fingerprint).split()[1] for machine in lab.machines]

    def compare(shown: str) -> None:
        assert all(each in shown for each in fingerprints), shown

    operator, machines, cluster, _ = BLOCKS
    made = Path(person["HOME"], "clusters/home")
    typed(operator, clone, person)
    typed(machines, made, at_work, before_yes=compare)
    typed(cluster, made, at_work)
    return made


def test_the_page_is_typed_whole(place: Path, at_work: dict[str, str]) -> None:
    assert PAGE.count("```sh\n") == len(BLOCKS)
    committed = typed(["git ls-files"], place, at_work)
    assert "keys/apiserver.key.age" in committed and "keys/master_key\r" not in committed


def test_kubectl_reaches_ready_nodes(place: Path, person: dict[str, str], at_work: dict[str, str]) -> None:
    connect, *others = BLOCKS[-1]
    with Terminal([connect], place, at_work) as tunnel:
        assert tunnel.until(lambda: "Ctrl-C ends it" in tunnel.shown, 60), tunnel.shown
        named = re.search(r"^use it by: (export .*?)\r?$", tunnel.shown, re.M)
        assert named and named[1] == others[0].replace("~", person["HOME"]), tunnel.shown
        shown = typed(others, Path(person["HOME"]), person)
        assert len(re.findall(r"^node[12]\S+ +Ready ", shown, re.M)) == 2, shown
        tunnel.type(CTRL_C)
        tunnel.end(30)
    assert not (place / ".smallkube/kubeconfig-16443").exists()


def test_messages_name_commands_that_work_here(place: Path, at_work: dict[str, str]) -> None:
    assert "inventory.yaml: valid, 2 nodes" in typed(["cd nix", "inv inventory.check"], place, at_work)


def test_the_report_fits_and_is_silent(place: Path, at_work: dict[str, str], tmp_path: Path) -> None:
    require("cluster", chromium.PROGRAM, "no chromium: ./setup.sh chromium fonts-dejavu-core")
    typed(["smallkube cluster.report"], place, at_work)
    with chromium.browser(tmp_path / "chromium") as browser:
        for width in (400, 1000, 1600):
            browser.open(place / ".smallkube/report.html", width)
            assert chromium.misfits(browser, width) == [], width
        text = browser.value("document.body.textContent")
        assert "node1" in text and "node2" in text and "v1.36" in text
        assert browser.complaints == []
