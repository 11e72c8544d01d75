"""How the checks ended, also as text for others. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from smallkube.core.checks import Check, Result

_TAGS = {"failed": ("failure", "failures"), "not reached": ("error", "errors"), "skipped": ("skipped", "skipped")}
"""Outcome → the element of a case, and the attribute of the suite that counts them."""


@dataclass(frozen=True)
class SmokeResult(Check):
    """``check`` is the name in the table. Not ``reached``: it could not be made, because of what another reports."""

    seconds: float = 0.0
    reached: bool = True

    @property
    def outcome(self) -> str:
        """The result in a word, in which what was not reached differs from what does not apply."""
        return self.result.value if self.reached else "not reached"

    @property
    def bad(self) -> bool:
        return self.result is Result.FAILED or not self.reached


def junit(results: Sequence[SmokeResult], cluster: str) -> str:
    """The report in the XML that JUnit's readers agree on (github.com/testmoapp/junitxml)."""
    seconds = sum(one.seconds for one in results)
    suite = ElementTree.Element(
        "testsuite", name=f"smallkube smoke test of {cluster}", tests=str(len(results)), time=f"{seconds:.3f}"
    )
    for word, (_, count) in _TAGS.items():
        suite.set(count, str(sum(one.outcome == word for one in results)))
    for one in results:
        group, _, name = one.check.partition(".")
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time=f"{one.seconds:.3f}")
        if one.outcome in _TAGS:
            # XML 1.0 has no control characters.
            message = "".join(char for char in one.detail if char.isprintable() or char in "\n\t")
            ElementTree.SubElement(case, _TAGS[one.outcome][0], message=message)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
