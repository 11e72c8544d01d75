"""Proves that the lab makes exactly the images that the catalogue names, in the versions that it builds."""

import re

from lab import addons
from smallkube.core.workspace import REPOSITORY


def test_the_lab_makes_the_images_of_the_catalogue() -> None:
    manifests = (REPOSITORY / "nix/addons/catalogue").glob("*.yaml")
    named = {image for file in manifests for image in re.findall(r"^\s+image: (\S+)$", file.read_text(), re.MULTILINE)}
    assert named == {*addons.names(), addons.HELPER}
