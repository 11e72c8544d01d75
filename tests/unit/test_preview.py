"""Proves how the bundle here is compared with the one that a machine was deployed with."""

import hashlib

from smallkube.deploy.preview import Changes, compare


def listing(files: dict[str, bytes]) -> str:
    return "\n".join(["digest", *(f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in files.items())])


def test_added_changed_and_removed_files_are_named() -> None:
    there = {"nix/a.nix": b"1", "nix/b.nix": b"1", "keys/x.age": b"1"}
    here = {"nix/a.nix": b"1", "nix/c d.nix": b"1", "keys/x.age": b"2"}
    found = compare(listing(there), here)
    assert found == Changes(True, added=("nix/c d.nix",), changed=("keys/x.age",), removed=("nix/b.nix",))
    assert found.secrets == ("keys/x.age",)
    assert found.lines() == ["+ nix/c d.nix", "~ keys/x.age", "- nix/b.nix"]
    assert not found.none


def test_the_same_is_no_change() -> None:
    assert compare(listing({"a": b"1"}), {"a": b"1"}).none


def test_without_an_earlier_deploy_there_is_nothing_to_compare() -> None:
    assert compare("", {"a": b"1"}) == Changes(known=False)
