"""The types of the fields of inventory.yaml: which texts and numbers each may have."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from smallkube.inventory.addressing import is_address


def _network(value: str) -> str:
    """As it is in a rule: in no other words than the library's own."""
    if "%" in value:
        raise ValueError(f"{value} has a zone, which no rule can have; give the bare network")
    return str(ipaddress.ip_network(value))


def _address(value: str) -> str:
    address = ipaddress.ip_address(value)
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{value} is not an address that other machines can reach")
    if "%" in value:
        raise ValueError(f"{value} has a zone; give the bare address")
    return value


def _prefix4(value: str) -> str:
    network = ipaddress.ip_network(f"{value}.0.0/16")
    if not network.is_private:
        raise ValueError(f"{network} is not a private range (RFC 1918)")
    return value


def _host(value: str) -> str:
    address, _, zone = value.partition("%")
    if not is_address(address) and (not re.fullmatch(DNS_NAME, value) or len(value) > 253):
        raise ValueError("neither an address nor a DNS name")
    if address != value and not re.fullmatch(r"[\w.-]{1,15}", zone, re.ASCII):  # a ProxyCommand is a shell's
        raise ValueError("the zone is not the name of a network interface")
    return value


def _domain(value: str) -> str:
    if value.rsplit(".", maxsplit=1)[-1] == "local":
        raise ValueError(".local belongs to multicast DNS (RFC 6762); use another top level, such as .internal")
    return value


def _argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError("a check is a list of words, the first of which is the program")
    return value


CATALOGUE = ("local-path", "metrics-server", "network-policy")
"""The add-ons that are ours to name: manifests in nix/addons/catalogue."""


def _addon(value: str) -> str:
    if not set("/.") & set(value) and value not in CATALOGUE:
        raise ValueError(f"{value} is not in the catalogue ({', '.join(CATALOGUE)}); a path has a slash or a dot")
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a path inside the workspace")
    return value


LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME = rf"{LABEL}(\.{LABEL})*"


Cidr = Annotated[str, AfterValidator(_network)]
Cidr4 = Annotated[Cidr, AfterValidator(lambda value: str(ipaddress.IPv4Network(value)))]
Cidr6 = Annotated[Cidr, AfterValidator(lambda value: str(ipaddress.IPv6Network(value)))]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=0, le=10_000)]
DnsName = Annotated[str, StringConstraints(pattern=rf"^{DNS_NAME}$", max_length=253)]
SecurityLevel = Literal["privileged", "baseline", "restricted"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Issuer = Annotated[str, StringConstraints(pattern=rf"^https://{DNS_NAME}:[1-9][0-9]{{0,4}}$", max_length=267)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]
Prefix4 = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$"), AfterValidator(_prefix4)]
Prefix6 = Annotated[str, StringConstraints(pattern=r"^f[cd][0-9a-f]{2}$")]
Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, AfterValidator(_host)]
Domain = Annotated[DnsName, AfterValidator(_domain)]
Addon = Annotated[str, AfterValidator(_addon)]
Argv = Annotated[tuple[str, ...], AfterValidator(_argv)]
Namespace = Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")]
Resource = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*]([a-z0-9.*-]*[a-z0-9*])?$")]
Text = Annotated[str, Field(min_length=1)]
Login = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
