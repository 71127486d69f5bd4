"""Ways to break the promises about leases."""

from __future__ import annotations

from typing import Any

from tests.providers.broken.variants import PROVIDER, Catalogue, swap

CATALOGUE = Catalogue("leases")
hub, provider = CATALOGUE.hub, CATALOGUE.provider

# ---- open and close

provider(
    "calls work while the store is closed", "close", "hub, self._opened = self._opened, None", "hub = self._opened"
)


async def _close_and_release(self: Any) -> None:
    hub, self._opened = self._opened, None
    if hub is not None:
        hub._owners = dict.fromkeys(hub._owners)


CATALOGUE.add("closing releases", swap(PROVIDER, "close", _close_and_release))
hub("a hub's time stands still", "facts", "self._now_us()", "1_800_000_000_000_000")
hub("the time of a lease is in milliseconds", "begin_lease", "row.expires_at, now,", "row.expires_at, now // 1000,")
hub("what is received has no time", "receive", "due_at <= last_due], now)", "due_at <= last_due], 0)")
provider("leases share an id", "lease", "self._ports.new_id()", "name")

# ---- taking and giving up

hub(
    "partitions that there are not are made",
    "take",
    "if unknown := set(partitions) - self._owners.keys():",
    "self._owners |= dict.fromkeys(set(partitions) - self._owners.keys())\n    if unknown := None:",
)
hub("what a live lease owns is taken", "take", "(from_live or not self._is_live(owner))", "True")
hub(
    "what a live lease owns is never taken",
    "take",
    "(from_live or not self._is_live(owner))",
    "not self._is_live(owner)",
)
hub("what a dead lease owns is never taken", "take", "(from_live or not self._is_live(owner))", "from_live")
hub("the epoch is not raised", "take", "self._leases[owner].epoch += 1", "pass")
hub("a lease that lost one keeps the rest", "take", "self._disown(owner)", "self._disown(owner, [partition])")
hub(
    "taking from the living fences oneself",
    "take",
    "owner is not None and owner != lease.lease_id and",
    "owner is not None and (owner != lease.lease_id or from_live) and",
)
hub("what one has already is not told as got", "take", "in (None, lease.lease_id):", "is None:")
hub("whatever was asked for is told as got", "take", "return taken", "return set(partitions)")
hub("what others own is released", "_disown", "owner == lease_id and ", "")
hub(
    "a release of some releases all",
    "release",
    "self._disown(lease.lease_id, partitions)",
    "self._disown(lease.lease_id)",
)
hub("a released partition stays owned", "release", "self._disown(lease.lease_id, partitions)", "pass")
hub("a released lease lives on", "release", "del self._leases[lease.lease_id]", "pass")
hub("releasing twice is an error", "release", "return\n", "raise LeaseLostError('gone')\n")

# ---- life and death

hub("renewing prolongs nothing", "renew", "row.expires_at = now + LEASE_US", "pass")
hub("taking prolongs nothing", "take", "row.expires_at = self._now_us() + LEASE_US", "pass")
hub("a commit prolongs nothing", "commit", "row.expires_at = now + LEASE_US", "pass")
hub("leases live for ever", "_is_live", "0 < left <= LEASE_AHEAD_US", "left <= LEASE_AHEAD_US")
hub("leases of a clock that ran ahead live", "_is_live", "0 < left <= LEASE_AHEAD_US", "left > 0")
hub("a lease lives a moment too long", "_is_live", "0 < left <=", "0 <= left <=")
hub(
    "an expired lease stays dead",
    "_row_of",
    "row is None or row.epoch != lease.epoch",
    "row is None or row.epoch != lease.epoch or row.expires_at <= self._now_us()",
)
hub(
    "an expired lease loses what nobody took",
    "renew",
    "row.expires_at = now + LEASE_US",
    "if row.expires_at <= now:\n        self._disown(lease.lease_id)\n    row.expires_at = now + LEASE_US",
)
hub("the dead are not shown as unowned", "renew", "if not self._is_live(owner)}", "if owner is None}")
hub("the dead are shown as living", "renew", "theirs, self._is_live(one.lease_id),", "theirs, True,")
hub("clients are shown as workers", "renew", "if one.is_worker and one is not row", "if one is not row")
hub("a worker sees itself among the others", "renew", "if one.is_worker and one is not row", "if one.is_worker")
hub("the others' leases seem to end at another time", "renew", "one.expires_at)", "one.expires_at + 1)")
hub("others are shown without what they own", "renew", "one.announcement, theirs,", "one.announcement, set(),")
hub("an announcement is not renewed", "renew", "row.announcement = announcement", "pass")
hub(
    "a renewal without an announcement empties it",
    "renew",
    "if announcement is not None:\n        row.announcement = announcement",
    "row.announcement = announcement or b''",
)
hub("leases are never forgotten", "_forget_expired", "del self._leases[row.lease_id]", "pass")

# ---- the fence

hub("the epoch is not compared", "_row_of", " or row.epoch != lease.epoch", "")
hub("a commit is not fenced", "commit", "row = self._row_of(lease)", "row = self._leases[lease.lease_id]")
hub("the partition is not checked", "_check_step", "not is_ours or ", "")
hub("a claim is not fenced", "claim", "self._row_of(lease)", "pass")
hub("a mark is not fenced", "mark_slow_turn", " or row.partition not in self._owned_by(lease)", "")

# ---- what a new owner finds

hub("the stalled are not recovered", "recover", " or row.status is Status.STALLED", "")
hub("the marked are not recovered", "recover", " or row.slow_turns > 0", "")
hub("open work is not recovered", "recover", "row.open_work > 0 or ", "")
hub("what has ended is recovered", "recover", "and not row.status.is_finished\n", "\n")
hub(
    "what is idle is recovered",
    "recover",
    "and (row.open_work > 0 or row.status is Status.STALLED or row.slow_turns > 0)",
    "",
)
hub("what others own is recovered", "recover", "self._owned_by(lease).intersection(partitions)", "set(partitions)")
hub(
    "all partitions are recovered", "recover", "self._owned_by(lease).intersection(partitions)", "self._owned_by(lease)"
)
hub("a mark is not counted", "mark_slow_turn", "slow_turns=row.slow_turns + 1", "slow_turns=1")
hub("a mark moves its time", "mark_slow_turn", "row.slow_since or self._now_us()", "self._now_us()")
hub("a mark outlives the next commit", "_apply", "progress | marks | ", "progress | ")
hub("a mark is put on whatever run there is", "mark_slow_turn", " and row.run_id == run_id", "")
