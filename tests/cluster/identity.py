"""Requests with a certificate of a node, such as its owner and whoever stole it can make."""

from dataclasses import dataclass

from tests.cluster.conftest import LabCluster

SERVER = "https://api.k8s.internal:6443"
ENOUGH = f'curl --silent --insecure --max-time 5 --output /dev/null --write-out %{{http_code}} --cert "$1" {SERVER}/api'


@dataclass(frozen=True)
class Identity:
    """Certificate and key in PEM, kept by the test: whatever happens to keys/."""

    pem: str

    @classmethod
    def of(cls, cluster: LabCluster, word: str, node: str) -> "Identity":
        """``word``: node, coredns or kube-proxy."""
        certificate = (cluster.operator.workspace.keys_dir / f"{word}_{node}.crt").read_text()
        return cls(certificate + cluster.operator.done("keys.show", f"{word}_{node}.key"))

    def answer(self, cluster: LabCluster) -> str:
        """HTTP status of a request that every user may make; "000" when there was no answer."""
        machine = cluster.machine("node1")
        script = f"umask 077; f=$(mktemp /run/test.XXXXXX); cat >$f; set -- $f; {ENOUGH}; rm $f"
        return machine.execute(["sh", "-c", script], stdin=self.pem).stdout.strip()

    def kubectl(self, cluster: LabCluster, *words: str, stdin: str = "") -> str:
        """What kubectl on the primary prints for this user, errors included."""
        machine = cluster.machine("node1")
        machine.execute(["sh", "-c", "umask 077; cat >/run/test-identity.pem"], stdin=self.pem)
        flags = (
            *("--server", SERVER, "--insecure-skip-tls-verify", "--request-timeout=10s"),
            *("--client-certificate=/run/test-identity.pem", "--client-key=/run/test-identity.pem"),
        )
        argv = ["env", "KUBECONFIG=/dev/null", "/run/current-system/sw/bin/kubectl", *flags, *words]
        done = machine.execute(argv, stdin=stdin, seconds=30)
        machine.check("rm", "-f", "/run/test-identity.pem")
        return done.stdout + done.stderr
