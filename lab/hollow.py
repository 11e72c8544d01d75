"""Hollow nodes for `python -m bench.scale`: a program that is to the API server what the programs of many nodes are."""

from lab.programs import ProgramSet, Recipe

PROGRAMS = ProgramSet(
    "hollow", "hollow nodes", (Recipe("hollow", "k8s.io/client-go", (("hollow", "smallkube.lab/hollow"),)),)
)
