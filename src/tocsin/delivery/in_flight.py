"""In flight: how many messages one sender has with a vendor at once. Pure."""

from __future__ import annotations

LEAST_AT_ONCE = 32
MOST_AT_ONCE = 1500
SAMPLE = 64
GAIN = 2.0
PROBE_SECONDS = 10.0


class InFlight:
    """How many messages may be in flight: GAIN times what the rate and the vendor's latency need, and no more, for on
    loopback a message costs 57 µs with 32 in flight and 92 µs with 256.

    While the vendor limits the rate the number doubles; when we do, it stays. The rate is that of SAMPLE answers or
    more, and of one latency or longer: what was sent in a burst is answered in one. The latency is the quickest of
    SAMPLE answers with few in flight: with many they wait for us. It is measured again every PROBE_SECONDS (as BBR does
    for a path of the network).
    """

    def __init__(self, most: int) -> None:
        self.most = min(most, MOST_AT_ONCE)
        self.allowed = min(LEAST_AT_ONCE, self.most)
        self.latency = 0.0  # seconds; 0 until it was measured
        self._rate = 0.0  # before the latency was measured again
        self._probed_at = 0.0  # when the latency was measured; 0: it is being measured
        self._few_since = 0.0  # since when few are in flight, so that it can be
        self._quickest = float("inf")  # of the sample
        self._timed = 0  # answers of the sample
        self._began = 0.0

    def begin(self, now: float) -> None:
        """Begin a sample: nothing was in flight until now."""
        self._began, self._quickest, self._timed = now, float("inf"), 0

    def hear(self, started: float, ended: float, in_flight: int) -> bool:
        """Take one answer into the sample; return whether it was the last and has changed what is allowed. in_flight:
        messages that are still with the vendor."""
        if started < self._few_since:
            if self._few_since > ended and in_flight <= LEAST_AT_ONCE:
                self._few_since = ended
                self.begin(ended)
            return False
        self._quickest = min(self._quickest, ended - started)
        self._timed += 1
        if self._timed < SAMPLE or ended - self._began < self.latency:
            return False
        rate = self._timed / max(ended - self._began, 1e-6)
        if not self._probed_at:
            self.latency, self._probed_at = self._quickest, ended
            rate = max(rate, self._rate)
        self.latency = min(self.latency, self._quickest)
        self.allowed = int(min(max(rate * self.latency * GAIN, LEAST_AT_ONCE), self.most))
        if ended - self._probed_at > PROBE_SECONDS:
            self._rate, self.allowed = rate, min(LEAST_AT_ONCE, self.most)
            self._probed_at, self._few_since = 0.0, float("inf")
        self.begin(ended)
        return True
