"""kubeadm on the lab's machines: the program, its images under upstream's names, and a machine made ready for it.

The configuration is as the lab's own (lab/workspace.py: peculiar): control groups of version 1, nothing is pulled,
nothing evicted.
"""

import json
import re
from pathlib import Path

from lab import containers, kubernetes, network
from lab.command import run
from lab.conformance import layer
from lab.containers import COMMANDS, PAUSE, Image, file_system
from lab.layer import PREFIX
from lab.machine import Machine
from lab.programs import ProgramSet, Recipe

STAMPS = ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion")
PROGRAMS = ProgramSet(
    "kubeadm",
    "kubeadm",
    (Recipe("kubeadm", "k8s.io/kubernetes", (("kubeadm", "k8s.io/kubernetes/cmd/kubeadm"),), STAMPS),),
)
PLACE = f"/{containers.STORAGE}/lab-kubeadm"
PLUGINS, CRIO = f"/{PREFIX}/pkgs/cni-plugins/bin", f"/{PREFIX}/pkgs/cri-o/bin"
SUBNET = "10.244.{index}.0/24"
"""Of the pods of machine ``index``."""
SERVICES = "10.96.0.0/12"
"""kubeadm's default."""
ENDPOINT = f"{network.peer_address(1)}:6443"
RESOLVER = "/etc/lab-resolv.conf"
SETTINGS = {
    # Without any, CoreDNS would ask itself, and end; nobody answers there.
    RESOLVER: f"nameserver {network.BRIDGE_ADDRESS.partition('/')[0]}\n",
    "/etc/crio/crio.conf.d/00-default.conf": f"""\
[crio]
storage_driver = "overlay"
[crio.image]
pause_image = "{PAUSE}"
[crio.network]
plugin_dirs = ["{PLUGINS}"]
[crio.runtime]
cgroup_manager = "systemd"
hooks_dir = []
log_to_journald = true
pinns_path = "{CRIO}/pinns"
""",
    "/etc/systemd/system/crio.service": f"""\
[Unit]
After=network.target
[Service]
Type=notify
Environment=PATH={CRIO}:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart={CRIO}/crio
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-999
""",
    # kubernetes.io/docs/setup/production-environment/tools/kubeadm/kubelet-integration: the kubelet drop-in file.
    "/etc/systemd/system/kubelet.service": f"""\
[Unit]
After=crio.service
StartLimitIntervalSec=0
[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/{kubernetes.PREFIX}/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
""",
}
NODE = """\
nodeRegistration:
  criSocket: unix:///run/crio/crio.sock
  ignorePreflightErrors: [all]
  kubeletExtraArgs: [{{name: node-ip, value: {address}}}]
"""
CLUSTER = f"""\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {network.peer_address(1)}}}
{NODE.format(address=network.peer_address(1))}---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {kubernetes.version()}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
seccompDefault: true
resolvConf: {RESOLVER}
imageGCHighThresholdPercent: 100
evictionHard: {{"nodefs.available": "0%", "imagefs.available": "0%"}}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
detectLocalMode: BridgeInterface
detectLocal: {{bridgeInterface: cni0}}
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""
JOIN = """\
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {{apiServerEndpoint: "{endpoint}", token: "{token}", caCertHashes: ["{ca}"]}}
"""


def write_images(folder: Path, programs: Path, built: Path, root: Path) -> None:
    """Write what `kubeadm config images list` names into the new ``folder``.

    ``programs`` is the folder of PROGRAMS, ``built`` that of lab/kubernetes.py, whose programs are in the images,
    ``root`` the image of the machines.
    """
    listing: list[str | Path] = [programs / PROGRAMS.prefix / "bin/kubeadm", "config", "images", "list"]
    # kube-proxy runs nft; chroot(8): the libraries are those of the machines.
    nft = ["/usr/sbin/nft", *re.findall(r"/lib\S+", run(["chroot", root, "ldd", "/usr/sbin/nft"]))]
    tools = {path: (root / path.lstrip("/")).read_bytes() for path in nft}
    images = []
    for name in run([*listing, "--kubernetes-version", kubernetes.version()]).split():
        program = re.sub(r".*/|:.*", "", name)
        if program == "pause":
            images.append(Image(name, [file_system(root / "usr/bin/busybox")], COMMANDS[PAUSE], path="/bin"))
            continue
        path = f"usr/local/bin/{program}"
        files = {path: (built / kubernetes.PREFIX / "bin" / program).read_bytes()}
        files |= {path.lstrip("/"): data for path, data in tools.items()} if program == "kube-proxy" else {}
        entrypoint = [f"/{path}"] if program == "coredns" else []
        images.append(Image(name, [layer(files, dict.fromkeys(files, 0o755))], entrypoint=entrypoint))
    containers.write_images(folder, images)


def prepare(machine: Machine, programs: Path, images: Path, machines: int) -> None:
    """What an operator of kubeadm has done before: programs, images, CRI-O that runs, a bridge and routes for pods.

    ``programs`` is the folder of PROGRAMS, ``images`` one by ``write_images``, ``machines`` their number.
    """
    machine.put(programs / PROGRAMS.prefix / "bin", PLACE)
    machine.check("install", f"{PLACE}/kubeadm", "/usr/local/bin/kubeadm")
    subnet = {"subnet": SUBNET.format(index=machine.index)}
    addresses = {"type": "host-local", "ranges": [[subnet]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    pods = json.dumps({"cniVersion": "1.0.0", "name": "cni0", "plugins": [bridge]})
    for path, text in (SETTINGS | {"/etc/cni/net.d/10-bridge.conflist": pods}).items():
        machine.check("install", "-D", "--mode=644", "/dev/stdin", path, stdin=text)
    # kubeadm asks it for its version.
    machine.check("ln", "--symbolic", f"/{kubernetes.PREFIX}/bin/kubelet", "/usr/local/bin")
    machine.check("sysctl", "--write", "net.ipv4.ip_forward=1")
    for other in set(range(1, machines + 1)) - {machine.index}:
        machine.check("ip", "route", "add", SUBNET.format(index=other), "via", network.peer_address(other))
    # A Service's address is translated only where it has a route, and there is no default one.
    machine.check("ip", "route", "add", SERVICES, "dev", network.INTERFACE)
    containers.bring(machine, images)
    machine.check("systemctl", "daemon-reload")
    machine.check("systemctl", "start", containers.UNIT, "crio")
    machine.check("systemctl", "enable", "kubelet")


def init(machine: Machine) -> tuple[str, str]:
    """`kubeadm init`; returns the token and the digest with which others join."""
    said = machine.check("kubeadm", "init", "--config=/dev/stdin", stdin=CLUSTER)
    token, digest = re.search(r"--token (\S+)", said), re.search(r"sha256:[0-9a-f]{64}", said)
    assert token and digest
    return token[1], digest[0]


def join(machine: Machine, token: str, digest: str) -> None:
    """`kubeadm join`, with what ``init`` returned, which no command line shows."""
    text = JOIN.format(endpoint=ENDPOINT, token=token, ca=digest)
    node = NODE.format(address=network.peer_address(machine.index))
    machine.check("kubeadm", "join", "--config=/dev/stdin", stdin=text + node)
