"""Which IP addresses are public: what an account names may not lead into the operator's own network."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

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
