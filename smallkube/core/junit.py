"""Reports for others, in the XML that JUnit's readers agree on (github.com/testmoapp/junitxml). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_COUNTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
"""How a case may end → the attribute of the suite that counts it."""


@dataclass(frozen=True)
class Case:
    """One test: ``ended`` is "failure", "error" or "skipped", "" when it passed."""

    group: str
    name: str
    seconds: float
    ended: str
    message: str


def report(title: str, cases: Sequence[Case]) -> str:
    """The file's text."""
    seconds = sum(case.seconds for case in cases)
    suite = ElementTree.Element("testsuite", name=title, tests=str(len(cases)), time=f"{seconds:.3f}")
    for ended, count in _COUNTS.items():
        suite.set(count, str(sum(case.ended == ended for case in cases)))
    for case in cases:
        about = {"classname": case.group, "name": case.name, "time": f"{case.seconds:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", about)
        if case.ended:
            # XML 1.0 has no control characters.
            message = "".join(char for char in case.message if char.isprintable() or char in "\n\t")
            ElementTree.SubElement(element, case.ended, message=message)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
