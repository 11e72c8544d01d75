"""Makes the checks that are wanted, in the order of the table, and cleans up whatever happens."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from smallkube.core.checks import Result
from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.inventory.models import Inventory
from smallkube.remote.host import Connect
from smallkube.smoke import objects, pods
from smallkube.smoke.context import NotReached, Options, Skipped, SmokeContext
from smallkube.smoke.report import SmokeResult
from smallkube.smoke.table import CHECKS, Needs, SmokeCheck

CLEANING_SECONDS = 90
"""What cleaning up may take after the time for everything is over."""


class Run:
    """One run. ``step`` gets the name of each check as it begins."""

    def __init__(self, context: SmokeContext, wanted: Sequence[str], step: Callable[[str], object]) -> None:
        self.context, self.wanted, self.step = context, wanted, step
        self.results: list[SmokeResult] = []
        context.deadline = time.monotonic() + context.options.timeout

    def checks(self) -> None:
        """All but the cleaning up."""
        needed = max((check.needs for check in CHECKS if check.name in self.wanted), default=Needs.PRIMARY)
        reason = ""
        for check in CHECKS[:-1]:
            if check.name not in self.wanted and (check.provides is None or check.provides > needed):
                continue
            reason = reason or (self._no_api() if check.needs >= Needs.API else "")
            if reason and check.needs >= Needs.API:
                self.not_reached(check.name, reason)
            else:
                self._make(check)

    def _no_api(self) -> str:
        try:
            return "" if self.context.readyz.ok else "the API server is not ready"
        except SmallkubeError as error:
            return error.message

    def failed_with_pods(self) -> bool:
        """Whether something failed that the pods' own events and logs may explain."""
        with_pods = {check.name for check in CHECKS if check.needs >= Needs.PODS or check.provides}
        return any(one.result is Result.FAILED and one.check in with_pods for one in self.results)

    def clean(self) -> None:
        """Remove what was made, wanted or not."""
        self.context.deadline = time.monotonic() + CLEANING_SECONDS
        self._make(CHECKS[-1])

    def not_reached(self, name: str, reason: str, seconds: float = 0.0) -> None:
        """The check could not be made."""
        self._note(SmokeResult("", name, Result.SKIPPED, reason, seconds, reached=False))

    def _make(self, check: SmokeCheck) -> None:
        began = time.monotonic()
        if began > self.context.deadline:
            self.not_reached(check.name, f"--timeout {self.context.options.timeout} is over")
            return
        self.step(check.name)
        result, hint = Result.OK, f"; {check.hint}" if check.hint else ""
        try:
            detail = check.work(self.context)
        except NotReached as error:
            self.not_reached(check.name, error.message, round(time.monotonic() - began, 2))
            return
        except Skipped as error:
            result, detail = Result.SKIPPED, error.message
        except SmallkubeError as error:
            result, detail = Result.FAILED, f"{error.message}{hint}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            result, detail = Result.FAILED, f"unexpected answer: {error!r}"[:200]
        self._note(SmokeResult("", check.name, result, detail, round(time.monotonic() - began, 2)))

    def _note(self, result: SmokeResult) -> None:
        if result.check in self.wanted:
            self.results.append(result)


def run(
    inventory: Inventory,
    connect: Connect,
    certificate: bytes | None,
    options: Options,
    wanted: Sequence[str],
    step: Callable[[str], object],
    explain: Callable[[str], object],
) -> tuple[SmokeResult, ...]:
    """Make the ``wanted`` checks; ``explain`` is given what may explain a failure, before it is gone.

    Raises UsageError when what is needed to reach the primary is missing here.
    """
    with ExitStack() as stack:
        name = f"{objects.MARK}-{secrets.token_hex(4)}"
        current = Run(SmokeContext(inventory, connect, options, certificate, name, stack), wanted, step)
        try:
            current.context.machine(inventory.primary)
        except UsageError:
            raise
        except SmallkubeError as error:
            for number, check in enumerate(wanted):
                current.not_reached(check, "the primary can't be reached" if number else str(error))
            return tuple(current.results)
        try:
            current.checks()
            if current.failed_with_pods():
                with suppress(SmallkubeError):
                    explain(pods.evidence(current.context))
        finally:
            current.clean()
        return tuple(current.results)
