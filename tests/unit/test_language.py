"""The documentation and the texts of the tasks use the words of docs/glossary.md, and name only what exists."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.tasks import collection
from smallkube.cli.app import tree
from smallkube.core.workspace import REPOSITORY

DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "keys/README.md",
    REPOSITORY / "nix/templates/workspace/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
CODE = ["smallkube", "lab"]
"""Folders of which the texts in *.py are checked: docstrings, help and messages."""

BANNED = {
    r"of before|former(ly)?|the earlier one": "previous",
    r"(go|goes|going|gone|went|way) back": "roll back, rollback",
    r"tak(e|es|en|ing) (it )?back|took (it )?back|turn(s|ed)? round": "abort",
    r"arms? nothing|what is armed": "disable automatic rollback; the armed rollback",
    r"the one that boots": "commit; boot default",
    r"prov(e|es|ed|en|ing)": "verify, check",
    r"thinned out|lets? go of|by a rule": "retention, prune",
    r"copied beside|stands? beside|between the two": "off-site copy; overlap, both accepted",
    r"ill|not well|and well|(is|be) well|all is well|as (it|they) should be": "healthy, Ready",
    r"somebody|nobody|anybody|everybody|whoever": "operator, administrator; or name the program",
    r"puts? out": "revoke",
    r"(goes|go|went) on from there|the same (again )?(goes on|ends it)|command (goes on|ends it)": "resume",
    r"look (over|into|whether)|sight": "facts, inspection; verify, check",
    r"said|heard|told": "reported; name the output",
    r"all (change|together)|(change|deployed|activated|confirmed) together": "lockstep",
    r"in turn|whose turn": "queue, slots; one after the other",
    r"can(no|')t be understood|can not be understood": "unexpected output from X",
    r"(is|are) not here|bring it": "not found, missing; restore it from",
    r"to ask here": "confirmation required: pass --yes",
    r"throw-?away|rehears(e|es|ed|al|als)": "ephemeral; drill",
    r"mend(s|ed|ing)?": "fix",
    r"admit(s|ted)? again": "uncordon",
    r"control room": "operator's machine",
    r"(lies|lay|lie)": "is, are",
    r"anew|learnt": "again, new; learned",
    r"in vain|for good|for ever|on the fly": "fails; permanently; indefinitely; automatically",
    r"the ground that": "settings",
}
"""Regular expression of whole words → the word to use."""

NAMESPACE = tree(collection)
TASKS = {name for task in NAMESPACE.task_names.items() for name in (task[0], *task[1])}


@dataclass(frozen=True)
class Text:
    """A part of a file that is read by people; ``line`` is where it begins."""

    file: str
    line: int
    text: str


def texts() -> Iterator[Text]:
    for path in DOCUMENTS:
        yield Text(str(path.relative_to(REPOSITORY)), 1, path.read_text())
    for path in (path for folder in CODE for path in sorted((REPOSITORY / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield Text(str(path.relative_to(REPOSITORY)), node.lineno, node.value)


def banned(part: Text) -> Iterator[str]:
    for words, wanted in BANNED.items():
        pattern = words.replace(" ", r"\s+")
        for found in re.finditer(rf"(?<![\w-])({pattern})(?![\w-])", part.text, re.IGNORECASE):
            line = part.line + part.text.count("\n", 0, found.start())
            yield f"{part.file}:{line}: {found[0]!r}; say: {wanted}"


def test_words_of_the_glossary() -> None:
    assert [fault for part in texts() for fault in banned(part)] == []


def headings(path: Path) -> set[str]:
    """The anchors of a document, as GitHub derives them from its headings."""
    without_code = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_exist(path: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in headings(file)):
            missing.append(target)
    assert missing == []


def flags(name: str) -> set[str]:
    """The flags of a task, as they are typed."""
    found = {"help"}
    for argument in NAMESPACE[name].get_arguments():
        words = {word.replace("_", "-") for word in argument.names}
        found |= words
        if argument.kind is bool and argument.default is True:
            found |= {f"no-{word}" for word in words}
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_tasks_and_flags_exist(path: Path) -> None:
    wrong = []
    for name, rest in re.findall(
        r"\b(?:inv|smallkube(?=\s[a-z]+\.[a-z]))\s([a-z]+[a-z.-]*[a-z])([^`#|&\n]*)", path.read_text()
    ):
        if name not in TASKS:
            wrong.append(f"inv {name}")
            continue
        typed = re.findall(r"(?<=\s)--([a-z-]+)", rest.partition(" -- ")[0])
        wrong += [f"inv {name} --{flag}" for flag in typed if flag not in flags(name)]
    assert wrong == []


def test_readme_lists_the_tasks() -> None:
    """Each task once, in the words of `inv --list`."""
    section = (REPOSITORY / "README.md").read_text().partition("\n## The tasks\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z.-]+)` \| (.*?) \|$", section, re.MULTILINE)
    summaries = {}
    for name in NAMESPACE.task_names:
        documentation = NAMESPACE[name].__doc__ or ""
        summaries["deploy" if name == "deploy.deploy" else name] = documentation.strip().splitlines()[0]
    assert dict(rows) == summaries
    assert len(rows) == len(summaries)
