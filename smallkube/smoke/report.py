"""How the checks ended, also as text for others. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from smallkube.core.checks import Check, Result


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
    counts = {word: sum(one.outcome == word for one in results) for word in ("failed", "not reached", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=f"smallkube smoke test of {cluster}",
        tests=str(len(results)),
        failures=str(counts["failed"]),
        errors=str(counts["not reached"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(one.seconds for one in results):.3f}",
    )
    for one in results:
        group, _, name = one.check.partition(".")
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time=f"{one.seconds:.3f}")
        tag = {"failed": "failure", "not reached": "error", "skipped": "skipped"}.get(one.outcome)
        if tag:
            ElementTree.SubElement(case, tag, message=_printable(one.detail))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
