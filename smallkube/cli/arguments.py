"""Invoke's arguments as ours: no empty value, a default in the help of each flag, some with a letter."""

from typing import Any

from invoke.exceptions import Exit
from invoke.parser.argument import Argument

from smallkube.core.errors import UsageError

SHORT = {"follow": ("f",)}
"""Flags that have a letter too, as in other programs."""


class Value(Argument):
    """A flag with a value: never an empty one, which would mean what no flag at all means, such as every node.

    Of a word where a whole number belongs Invoke (2.2) makes a traceback, and of a repeatable flag without a value
    none at all.
    """

    @classmethod
    def make(cls, argument: Argument) -> None:
        """Turn an argument that Invoke has made into one of these, if it takes a value."""
        if argument.takes_value and not argument.optional:
            argument.__class__ = cls

    @property
    def raw_value(self) -> Any:
        """What Invoke looks at to see whether the flag just passed has got its value."""
        given = self.__dict__["raw_value"]
        if self.kind is list and not given:
            raise self._error("no value given")
        return given

    @raw_value.setter
    def raw_value(self, value: Any) -> None:
        self.__dict__["raw_value"] = value

    def set_value(self, value: Any, cast: bool = True) -> None:
        if isinstance(value, str):
            given = value.split(",") if self.kind is list else [value]
            if not all(word.strip() for word in given):
                raise self._error("empty value")
        try:
            super().set_value(value, cast)
        except ValueError as error:
            raise self._error(f"{value!r} is not a whole number") from error

    def _error(self, text: str) -> Exit:
        return Exit(f"--{self.names[0].replace('_', '-')}: {text}", UsageError.exit_status)


def complete(argument: Argument) -> None:
    """Turn an argument of a task that Invoke has made into one of ours."""
    Value.make(argument)
    argument.names += SHORT.get(argument.names[0], ())
    argument.help = with_default(argument.help or "", argument.default)


def with_default(text: str, default: object) -> str:
    """The help of a flag with its default, unless it has it already, or that is "off", "none" or "all"."""
    if isinstance(default, bool) or not isinstance(default, int | str) or default == "" or "default" in text:
        return text
    if f"({default}: " in text:  # which says what that means
        return text.replace(f"({default}: ", f"(default {default}: ")
    return f"{text[:-1]}; default: {default})" if text.endswith(")") else f"{text} (default: {default})"
