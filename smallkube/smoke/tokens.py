"""The tokens of pods that were there before: whether the API server still accepts who issued them."""

import base64
import json
from collections import Counter
from dataclasses import replace

from smallkube.core.errors import MALFORMED, listed
from smallkube.inventory.models import Node
from smallkube.smoke.context import SCRIPTS, NotReached, SmokeContext, fail_if, in_parallel


def of_pods(context: SmokeContext) -> str:
    """The tokens of all pods are of an issuer that the inventory has; the others are refused (401)."""
    api = context.inventory.cluster.api

    def ask(node: Node) -> Counter[str]:
        command = replace(SCRIPTS.sent("claims", title="tokens of pods"), limit=16 << 20)
        return Counter(filter(None, map(issuer, context.machine(node).run_checked(command).text.split())))

    found, faults = in_parallel(context.members, ask)
    fail_if(
        f"{number} on {node.name} are of {name[:100]}"
        for node, issuers in found.items()
        for name, number in issuers.items()
        if name not in (api.issuer, *api.previous_issuers)
    )
    if faults:
        raise NotReached(listed(f"{node.name}: {why}" for node, why in faults.items()))
    return f"{sum(issuers.total() for issuers in found.values())} tokens"


def issuer(claims: str) -> str:
    """Who issued a token that says ``claims`` (base64url of JSON, RFC 7519); "" when it is none of Kubernetes."""
    try:
        said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return str(said["iss"]) if "kubernetes.io" in said else ""
    except MALFORMED:
        return ""
