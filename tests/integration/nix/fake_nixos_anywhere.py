"""Stands in for nixos-anywhere, which needs a machine to erase: looks at what it is given, and says so in a file.

It is run as `PYTHON THIS REPORT ARGUMENTS…`. The files REPORT.status (an exit status) and REPORT.wait (it stays until
it is stopped) decide how it ends. Its flags are those of nixos-anywhere 1.13.0; another one is an error.
"""

import argparse
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

FILES = "secrets: map (secret: toString secret.file) (builtins.attrValues secrets)"

report = Path(sys.argv[1])
parser = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("--flake", "--extra-files", "--target-host", "--ssh-port", "--build-on"):
    parser.add_argument(flag)
parser.add_argument("--generate-hardware-config", nargs=2)
given = parser.parse_args(sys.argv[2:])

nix = ("nix", "--extra-experimental-features", "nix-command flakes", "eval", "--no-write-lock-file", "--json")
flake, _, name = given.flake.partition("#")
configuration = f"{flake}#nixosConfigurations.{name}.config"
found: dict[str, object] = {"argv": sys.argv[2:]}


def answer(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


root = Path(given.extra_files)
key = root / "etc/ssh/ssh_host_ed25519_key"
found["modes"] = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
found["public"] = answer("ssh-keygen", "-y", "-f", str(key)).split()[1]
found["device"] = json.loads(answer(*nix, f"{configuration}.disko.devices.disk.main.device"))
files = json.loads(answer(*nix, f"{configuration}.age.secrets", "--apply", FILES))
tree = Path(flake.partition(":")[2].removeprefix("//").partition("?")[0])
for file in files:
    subprocess.run(["age", "--decrypt", "-i", key, tree / "keys" / Path(file).name], check=True, capture_output=True)
found["secrets"] = [Path(file).name for file in files]
if given.generate_hardware_config:
    where = Path(given.generate_hardware_config[1])
    where.write_text("{ }\n")
    found["repository"] = answer("git", "-C", str(where.parent), "rev-parse", "--show-toplevel").strip()
report.write_text(json.dumps(found))
sys.stdout.write("### Done! ###\n")
if report.with_suffix(".wait").exists():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    report.with_suffix(".waiting").touch()
    signal.pause()
status = report.with_suffix(".status")
sys.exit(int(status.read_text()) if status.exists() else 0)
