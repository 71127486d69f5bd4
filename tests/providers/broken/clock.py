"""Ways to break the promises about the hub's clock."""

from __future__ import annotations

from durable.provider import HubClock
from tests.providers.broken.variants import Catalogue, text

CATALOGUE = Catalogue("clock")
hub, provider = CATALOGUE.hub, CATALOGUE.provider

# ---- who is heard

hub("a belief is never heard", "renew", "elif believed is not None:", "elif False:")
hub("everybody's belief is heard", "renew", "if owned and belief is not None else", "if belief is not None else")
provider("a confirmation is not heard", "renew", "confirms_clock=confirms_clock", "confirms_clock=False")
hub("only owners may confirm", "renew", "if confirms_clock:", "if confirms_clock and owned:")
hub(
    "a belief is heard before the fence",
    "renew",
    "row = self._row_of(lease)\n",
    "if belief is not None:\n        self._set_clock(self._clock.renewed(self._store_now_us(), belief()))\n    row = self._row_of(lease)\n",
)
hub("clients set the clock as they begin", "begin_lease", "if worker:", "if True:")
hub("nobody sets the clock as they begin", "begin_lease", "if worker:", "if False:")

# ---- what goes by it

hub("leases go by the store's clock", "begin_lease", "now = self._now_us()", "now = self._store_now_us()")
hub("what is delayed goes by the store's clock", "receive", "now = self._now_us()", "now = self._store_now_us()")
hub("what is claimed goes by the store's clock", "claim", "now = self._now_us()", "now = self._store_now_us()")
hub("commits tell the store's clock", "commit", "now = self._now_us()", "now = self._store_now_us()")
hub("a hub is opened by the store's clock", "facts", "self._now_us()", "self._store_now_us()")
hub("notes expire by the store's clock", "renew", "_forget_expired(now)", "_forget_expired(self._store_now_us())")
hub("a lease does not know the clock's number", "begin_lease", ", self._clock.number)", ")")

# ---- what a correction does beside

hub("leases run out by a correction", "_set_clock", "row.expires_at = self._now_us() + LEASE_US", "pass")
hub(
    "a correction forgets clients",
    "_set_clock",
    "row.epoch == 1 or not row.is_worker",
    "row.epoch == 1 and row.is_worker",
)
hub(
    "time goes back where the owner has died",
    "renew",
    "self._set_clock(self._clock.begun(self._store_now_us()))",
    "pass",
)
hub(
    "time goes back where the owner has died young",
    "take",
    "self._set_clock(self._clock.taken(self._store_now_us()))",
    "pass",
)
hub("what has expired is never removed", "renew", "if is_witness:", "if False:")
hub("what has expired is removed whoever asks", "renew", "if is_witness:", "if True:")
hub(
    "what has expired is removed before the clock is asked",
    "renew",
    "if confirms_clock:",
    "self._forget_expired(self._now_us())\n    if confirms_clock:",
)

# ---- the numbers that are kept

for _name, _method, _old, _new in (
    ("an outdated belief is heard", "renewed", "if belief.number == self.number:", "if True:"),
    (
        "what has expired by a time that leapt is removed",
        "is_witnessed",
        "belief.now - belief.since >= UNBROKEN_US",
        "True",
    ),
    ("what has expired is removed by an outdated belief", "is_witnessed", "belief.number == self.number", "True"),
    ("a correction is never ended", "renewed", "if abs(belief.now - store) <= CLOCK_JUMP_US:", "if False:"),
    ("every difference is corrected", "renewed", "elif abs(belief.now - self.time(store)) > CLOCK_JUMP_US:", "else:"),
    ("corrections are not counted", "_corrected", "number=self.number + 1", "number=self.number"),
    ("what was last seen is forgotten", "renewed", "seen=clock.time(store)", "seen=0"),
    ("a confirmation leaves what was seen", "confirmed", ", seen=store", ""),
    (
        "a correction outlives what it was for",
        "begun",
        "0 if store >= earliest else self.seen - store",
        "self.seen - store",
    ),
):
    CATALOGUE.add(_name, text(HubClock, _method, _old, _new))
