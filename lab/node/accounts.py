"""Users and groups of the configuration, made with Debian's tools; those it no longer has are removed, as on NixOS."""

import grp
import json
import pwd
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.node.shell import run

Entries = Mapping[str, Mapping[str, Any]]


def apply(manifest: Mapping[str, Any], record: Path) -> bool:
    """Make the manifest's users and groups; ``record`` has those made before. Returns whether all went well.

    Accounts that Debian had already are changed as asked, but stay when the configuration drops them.
    """
    users: Entries = manifest.get("users", {})
    groups: Entries = manifest.get("groups", {})
    before = json.loads(record.read_text()) if record.exists() else {"users": [], "groups": []}
    good = True
    for name in set(before["users"]) - set(users):
        good &= not _user(name) or run(["userdel", name])
    for name in set(before["groups"]) - set(groups):
        good &= not _group(name) or run(["groupdel", name])
    new_users = [name for name in users if not _user(name) or name in before["users"]]
    new_groups = [name for name in groups if not _group(name) or name in before["groups"]]
    for name in sorted({*groups, *manifest.get("baseGroups", [])}):
        if not _group(name):
            good &= run(["groupadd", "--system", *_number("--gid", groups.get(name, {}).get("gid")), name])
    for name, user in sorted(users.items()):
        good &= _make_user(name, user)
    for name, group in sorted(groups.items()):
        for member in group.get("members", []):
            good &= run(["usermod", "--append", "--groups", name, member])
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"users": sorted(new_users), "groups": sorted(new_groups)}))
    return good


def _make_user(name: str, user: Mapping[str, Any]) -> bool:
    group = user.get("group") or "nogroup"
    home = user.get("home") or "/var/empty"
    shell = user.get("shell") or "/usr/sbin/nologin"
    more = sorted(user.get("extraGroups") or [])
    groups = ["--groups", ",".join(more)] if more else []
    if not _user(name):
        kind = ["--system"] if user.get("isSystemUser") else []
        folder = "--create-home" if user.get("createHome") else "--no-create-home"
        options = ["--no-user-group", "--gid", group, "--home-dir", home, "--shell", shell, *groups]
        return run(["useradd", *kind, folder, *_number("--uid", user.get("uid")), *options, name])
    is_now = pwd.getpwnam(name)
    has = sorted(entry.gr_name for entry in grp.getgrall() if name in entry.gr_mem)
    if (grp.getgrgid(is_now.pw_gid).gr_name, is_now.pw_dir, is_now.pw_shell) == (group, home, shell) and (
        set(more) <= set(has)
    ):
        return True
    return run(["usermod", "--gid", group, "--home", home, "--shell", shell, *groups, name])


def _number(option: str, value: int | None) -> list[str]:
    return [] if value is None else [option, str(value)]


def _user(name: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def _group(name: str) -> bool:
    with suppress(KeyError):
        return bool(grp.getgrnam(name))
    return False
