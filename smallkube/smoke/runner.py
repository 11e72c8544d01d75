"""Makes the checks that are wanted, in the order of the table, and cleans up whatever happens."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, groupby, repeat

from smallkube.core.checks import Result
from smallkube.core.errors import MALFORMED, SmallkubeError, UsageError
from smallkube.inventory.models import Inventory
from smallkube.remote.fleet import parallel
from smallkube.remote.host import Connect
from smallkube.smoke import pods
from smallkube.smoke.context import MARK, NotReached, Options, Skipped, SmokeContext
from smallkube.smoke.report import SmokeResult
from smallkube.smoke.table import CHECKS, Needs, SmokeCheck

CLEANING_SECONDS = 90
"""What cleaning up may take after the time for everything is over, on slow machines more."""
_WITH_PODS = {check.name for check in CHECKS if check.needs >= Needs.PODS or check.provides}
"""Checks whose failure the pods' own events and logs may explain."""


def run(
    inventory: Inventory,
    connect: Connect,
    certificate: bytes | None,
    options: Options,
    wanted: Sequence[str],
    step: Callable[[str], object],
    explain: Callable[[str], object],
) -> tuple[SmokeResult, ...]:
    """Make the ``wanted`` checks; ``step`` gets the name of each as it begins.

    ``explain`` is given what may explain a failure, before it is gone. Raises UsageError when what is needed to reach
    the primary is missing here.
    """
    with ExitStack() as stack:
        name, deadline = f"{MARK}-{secrets.token_hex(4)}", time.monotonic() + options.timeout
        context = SmokeContext(inventory, connect, options, certificate, name, stack, deadline)
        try:
            context.machine(inventory.primary)
        except UsageError:
            raise
        except SmallkubeError as error:
            reasons = zip(wanted, chain([str(error)], repeat("the primary can't be reached")), strict=False)
            return tuple(SmokeResult("", check, Result.SKIPPED, why, reached=False) for check, why in reasons)
        results: list[SmokeResult] = []
        try:
            needed = max(check.needs for check in CHECKS if check.name in wanted)
            made = [c for c in CHECKS[:-1] if c.name in wanted or (c.provides and c.provides <= needed)]
            for _, group in groupby(made, _together):
                results += _make_all([*group], context, step)
            if any(one.result is Result.FAILED and one.check in _WITH_PODS.intersection(wanted) for one in results):
                with suppress(SmallkubeError):
                    explain(pods.evidence(context))
        finally:
            context.deadline = time.monotonic() + CLEANING_SECONDS * options.slowness
            results.append(_make(CHECKS[-1], context, step))
        return tuple(result for result in results if result.check in wanted)


def _together(check: SmokeCheck) -> object:
    """Neighbours of which this is the same are made at the same time: they only ask, and not for what pods found."""
    return check.needs if check.needs <= Needs.API and not check.provides else check


def _make_all(
    checks: Sequence[SmokeCheck], context: SmokeContext, step: Callable[[str], object]
) -> Sequence[SmokeResult]:
    # What several of them need is asked for once, before them.
    if checks[0].needs >= Needs.API and not context.api_fault and len(checks) > 1:
        with suppress(SmallkubeError, *MALFORMED):
            _ = context.nodes
    return parallel(checks, lambda check: _make(check, context, step))


def _make(check: SmokeCheck, context: SmokeContext, step: Callable[[str], object]) -> SmokeResult:
    began, reached = time.monotonic(), True
    try:
        if began > context.deadline:
            raise NotReached(f"--timeout {context.options.timeout} is over")
        if check.needs >= Needs.API and context.api_fault:
            raise NotReached(context.api_fault)
        step(check.name)
        result, detail = Result.OK, check.work(context)
    except NotReached as error:
        result, detail, reached = Result.SKIPPED, error.message, False
    except Skipped as error:
        result, detail = Result.SKIPPED, error.message
    except SmallkubeError as error:
        result, detail = Result.FAILED, f"{error.message}; {check.hint}" if check.hint else error.message
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        result, detail = Result.FAILED, f"unexpected answer: {error!r}"[:200]
    return SmokeResult("", check.name, result, detail, round(time.monotonic() - began, 2), reached)
