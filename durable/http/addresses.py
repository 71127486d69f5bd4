"""Which IP addresses are not for the public: loopback, link-local, private, shared, multicast, reserved, unspecified.

An IPv6 address that only wraps an IPv4 one (mapped, 6to4, Teredo, NAT64) is judged by what it wraps as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
IPV4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")

NOT_GLOBAL: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "2001::/23", "100::/64", "5f00::/16", "3fff::/20"),
        "64:ff9b:1::/48",  # NAT64 of a network's own: where the IPv4 address stands in it, only that network knows
    )
)
"""Special by the registries of IANA, though some versions of Python say "global" of them or of a part of them."""


def address_of(text: str) -> Address:
    """Return an address, without the zone of a link-local one. Raises ValueError."""
    return ipaddress.ip_address(text.partition("%")[0])


def is_public(address: Address) -> bool:
    """Tell whether an address belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = _wrapped(address)
        if inside is not None:
            return is_public(inside) and address in NAT64
    if any(address.version == network.version and address in network for network in NOT_GLOBAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in IPV4_COMPATIBLE or address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_among(address: Address, networks: Iterable[Network]) -> bool:
    """Tell whether an address lies in one of these networks; a mapped IPv4 address also counts as what it maps."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any(
        candidate.version == network.version and candidate in network
        for network in networks
        for candidate in (address, *(() if mapped is None else (mapped,)))
    )
