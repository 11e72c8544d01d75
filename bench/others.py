"""A command on many machines, and a changed configuration to them: against OpenSSH with tar, pyinfra and Ansible."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import fleet
from bench.fleet import Fleet, Usage
from bench.harness import INV, Plan, Row
from smallkube.core import ui
from smallkube.core.errors import SmallkubeError
from smallkube.core.workspace import REPOSITORY
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix import bundle

SLOW_SECONDS = 20
"""What takes longer is not repeated."""
MOST = 128
AT_ONCE = 32
"""Of all of them, as ``smallkube.remote.fleet.MAX_PARALLEL``."""
PACKAGES = ("pyinfra==3.10.0", "ansible-core==2.19.14")
PLACE = "/var/lib/pushed"
UNPACK = f"mkdir -p {PLACE}.new && tar -x -C {PLACE}.new"
OURS = """
import os
from smallkube.core.workspace import Workspace
from smallkube.inventory.cluster import Cluster
from smallkube.inventory.load import load
from smallkube.nix.bundle import assemble
from smallkube.remote import fleet, scripts
from smallkube.remote.ssh import connector
workspace = Workspace.find(os.environ)
cluster = Cluster(workspace, load(workspace.inventory_file))
tree = assemble(cluster)
tree.archive
push = lambda host: scripts.push(host, "bundles", tree)
fleet.raise_errors(fleet.ask(cluster.inventory.nodes, connector(workspace), push))
"""
"""What a deploy does before it builds, but its questions."""
PYINFRA = f"""
from pyinfra.operations import files, server
files.put(src="archive", dest="{PLACE}.tar")
server.shell(commands=["{UNPACK} -f {PLACE}.tar && mv -T {PLACE}.new {PLACE}"])
"""
PLAYBOOK = f"""
- hosts: all
  gather_facts: false
  tasks:
  - file: {{path: {PLACE}, state: directory}}
  - unarchive: {{src: archive, dest: {PLACE}}}
"""

Side = Callable[[], Usage]


def rows(plan: Plan) -> Iterator[Row]:
    if fleet.unavailable("others"):
        return
    programs = _programs(install=not plan.quick)
    sizes = [hosts for hosts in plan.hosts if hosts <= MOST]
    with fleet.running(max(sizes)) as machines:
        for hosts in sizes:
            many = Many(machines, hosts, programs)
            yield from _contest("nodes.exec -- uptime", hosts, plan.runs, many.commands)
            yield from _contest("push of a configuration", hosts, plan.runs, many.pushes)


def _programs(*, install: bool) -> Path | None:
    """The folder of pyinfra's and Ansible's programs, which are installed at first; None without them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "smallkube" / "bench" / "-".join(PACKAGES).replace("==", "-")
    done = folder / ".installed"
    if not done.exists():
        if not install:
            ui.message("without pyinfra and Ansible, which a whole `python -m bench others` installs")
            return None
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(pip, check=True)
        done.touch()
    return folder / "bin"


def _contest(work: str, hosts: int, runs: int, sides: Mapping[str, Side]) -> Iterator[Row]:
    """Each of ``sides``, the first of which is ours, alternately; a row for each other one."""
    taken: dict[str, list[Usage]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            if not taken[name] or taken[name][0].seconds < SLOW_SECONDS:
                taken[name].append(side())
    ours, *others = taken
    for name in others:
        yield fleet.row(work, hosts, taken[ours], name, taken[name])


@dataclass(frozen=True)
class Many:
    """So many machines of the fleet, and how each program reaches them: with the same key, and known host keys."""

    machines: Fleet
    hosts: int
    programs: Path | None

    @cached_property
    def folder(self) -> Path:
        """With the files that the others need."""
        folder, machines = self.machines.folder / f"others{self.hosts}", self.machines
        folder.mkdir()
        addresses = [machines.address(number) for number in range(1, self.hosts + 1)]
        keys = [(machines.folder / f"keys/node{number}.pub").read_text() for number in range(1, self.hosts + 1)]
        known, key = folder / "known_hosts", str(machines.key)
        known.write_text("".join(f"{address} {text}" for address, text in zip(addresses, keys, strict=True)))
        (folder / "hosts").write_text("".join(f"{address}\n" for address in addresses))
        data = {"ssh_user": "root", "ssh_key": key, "ssh_known_hosts_file": str(known)}
        data["ssh_strict_host_key_checking"] = "yes"
        (folder / "inventory.py").write_text(f"hosts = {[(address, data) for address in addresses]!r}\n")
        (folder / "deploy.py").write_text(PYINFRA)
        (folder / "playbook.yml").write_text(PLAYBOOK)
        workspace = machines.workspace(self.hosts)
        tree = bundle.assemble(Cluster(workspace, load(workspace.inventory_file)))
        bundle.write_tree(tree.files, folder / "tree")
        return folder

    @property
    def _ssh(self) -> str:
        return (
            f"-F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o LogLevel=ERROR"
            f" -o UserKnownHostsFile={self.folder}/known_hosts -i {self.machines.key}"
        )

    def _each(self, command: str, source: str = "/dev/null") -> list[str]:
        one = f"ssh {self._ssh} root@{{}} {shlex.quote(command)} <{source}"
        return ["sh", "-c", f"xargs -P {AT_ONCE} -I {{}} sh -c {shlex.quote(one)} <{self.folder}/hosts"]

    @property
    def _ansible(self) -> dict[str, str]:
        """As its documentation advises for speed: pipelining. Its connections stay open for the steps of one run.

        The path of their sockets is relative, for the system takes 108 bytes (unix(7)).
        """
        return {
            **os.environ,
            "HOME": str(self.folder),
            "ANSIBLE_FORKS": str(AT_ONCE),
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.machines.key),
            "ANSIBLE_REMOTE_USER": "root",
            "ANSIBLE_REMOTE_TMP": "/tmp/ansible",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "ANSIBLE_SSH_ARGS": f"{self._ssh} -o ControlMaster=auto -o ControlPersist=5s -o ControlPath=socket-%C",
            "LC_ALL": "C.UTF-8",
        }

    @cached_property
    def commands(self) -> dict[str, Side]:
        ours = self.machines.environment(self.machines.workspace(self.hosts))
        sides = {
            "ours": self._side([str(INV), "nodes.exec", "--", "uptime"], ours),
            f"OpenSSH, xargs -P {AT_ONCE}": self._side(self._each("uptime"), os.environ),
        }
        if self.programs:
            pyinfra = [str(self.programs / "pyinfra"), *self._pyinfra, "exec", "--", "uptime"]
            ansible = [str(self.programs / "ansible"), "-i", "hosts", "all", "-a", "uptime"]
            sides[PACKAGES[0]] = self._side(pyinfra, os.environ)
            sides[PACKAGES[1]] = self._side(ansible, self._ansible)
        return sides

    @cached_property
    def pushes(self) -> dict[str, Side]:
        ours = self.machines.environment(self.machines.workspace(self.hosts))
        pack = f"tar -c -f {self.folder}/archive -C {self.folder}/tree . && "
        *shell, each = self._each(f"{UNPACK} && mv -T {PLACE}.new {PLACE}", f"{self.folder}/archive")
        sides = {
            "ours": self._side([sys.executable, "-c", OURS], ours, pushed=True),
            f"OpenSSH and tar, xargs -P {AT_ONCE}": self._side([*shell, pack + each], os.environ, pushed=True),
        }
        if self.programs:
            packed = ["sh", "-c", f'{pack} exec "$@"', "sh"]
            pyinfra = [*packed, str(self.programs / "pyinfra"), *self._pyinfra, "deploy.py"]
            ansible = [*packed, str(self.programs / "ansible-playbook"), "-i", "hosts", "playbook.yml"]
            sides[PACKAGES[0]] = self._side(pyinfra, os.environ, pushed=True)
            sides[PACKAGES[1]] = self._side(ansible, self._ansible, pushed=True)
        return sides

    @property
    def _pyinfra(self) -> list[str]:
        return ["-y", "--parallel", str(AT_ONCE), "inventory.py"]

    def _side(self, argv: list[str], environment: Mapping[str, str], *, pushed: bool = False) -> Side:
        """Raises SmallkubeError when it left a machine out."""

        def run() -> Usage:
            before = self.machines.logins(self.hosts)
            usage, _ = self.machines.run(argv, environment, cwd=REPOSITORY if argv[0] == str(INV) else self.folder)
            same = [old for old, new in zip(before, self.machines.logins(self.hosts), strict=True) if old == new]
            has = len(self.machines.find("lib/**/nix/flake.nix")) if pushed else self.hosts
            self.machines.clean()
            # Ansible's connections outlive it by some seconds: the next run is to make its own.
            for socket in self.folder.glob("socket-*"):
                socket.unlink(missing_ok=True)
            if same or has != self.hosts:
                raise SmallkubeError(f"{len(same)} machines not asked, {has} have the result", where=argv[0])
            return usage

        return run
