"""The boot loader offers a limited number of generations, unless the machine's own file says otherwise."""

import pytest

from .conftest import Build, Describe

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("loader", "settings", "expected"),
    [
        ("systemd-boot", "enable = true;", "20"),
        ("systemd-boot", "enable = true; configurationLimit = 5;", "5"),
        ("systemd-boot", "", "null"),
        ("grub", "enable = true;", "20"),
        ("grub", "enable = false;", "100"),
    ],
)
def test_limit_of_boot_entries(loader: str, settings: str, expected: str, build: Build, describe: Describe) -> None:
    shown = f"builtins.toJSON config.boot.loader.{loader}.configurationLimit"
    own = f"{{ config, ... }}: {{ boot.loader.{loader} = {{ {settings} }}; environment.etc.limit.text = {shown}; }}"
    found = describe(build([1, 2]).with_file("nix/hosts/node1.nix", own))
    assert found["node1"]["etc"]["limit"]["text"] == expected
