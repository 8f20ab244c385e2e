"""Which IP addresses are public: what an account names may not lead into the operator's own network."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from tocsin.errors import Misconfigured

# A network that `ipaddress` calls global although its addresses hold another one (RFC 6052).
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_allowed(address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Return whether an IP address may be connected to: it is public, or in one of these networks. What is inside of an
    IPv6 address counts as well."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if any(found.version == one.version and found in one for one in networks):
        return True
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_allowed(str(inner), networks)
    return found.is_global and not found.is_multicast


def read_networks(
    text: str, setting: str = "TOCSIN_WEBHOOK_NETWORKS"
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the networks of a setting. Raises Misconfigured for what is none."""
    try:
        return [ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise Misconfigured(f"{setting} has to be networks with commas between: {error}.") from None
