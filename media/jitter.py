"""packet -> frame -> chunk: cuts one packet leg into turns on our clock, and says what it made up or left out.

Packets wait by time stamp (`media/packets.py`) and are decoded when a turn needs them (`media/sound.py`), at once
at the rate that the turn wants. A turn ends best at the end of the newest packet that had the target delay's
time to come (`media/delay.py`). What is missing, and what is too much:

    a packet is missing, later ones are here     lost: given back by the next one's FEC, else concealed
    much is lost, and FEC or repeats mend it     the target leaves a packet's length, or a repeat's way, of time
                                                 (`media/repairs.py`)
    the sequence goes on, the time stamp jumps   silence suppressed (DTX): comfort noise, not concealment
    nothing is here                              comfort noise after a DTX mark, up to 1 s; else concealed, silent
                                                 after 120 ms. The stream does not move meanwhile: what comes late
                                                 is said late, and its delay is taken back
    behind the target by `DEAD_MS`               gaps are closed first, then up to `RUSH_MS` a turn is taken out
    behind by more than `LATE_BOUND_MS`          the oldest packets are skipped
    ahead of the target                          up to `STRETCH_MS` a turn is said twice

Knows no codec and no clock. Its one rule: a cut takes exactly one turn, and no packet and no sample is lost from
the accounts in those two files.
"""

from __future__ import annotations

import math

from media.chunker import Cut
from media.delay import GUARD_MS, DelayEstimator
from media.packets import Packet, PacketAccount, PacketStore
from media.repairs import Repairs
from media.rtp import JitterEstimator
from media.sound import Decoder, SampleAccount, Sound
from media.timebase import FRAME_MS, NS_PER_MS, NS_PER_S, TURN_MS, TURN_NS, samples_of

RUSH_MS, STRETCH_MS = 30, 20
"""Of 200: 15 % faster speech is still speech; a frame said twice is heard less than one made up."""
LATE_BOUND_MS = 120
"""What may be kept of a stall's burst: gone after 4 turns of `RUSH_MS`. With the estimate's memory that is within
the 2 s that a call may take: 1.6 to 1.8 s after 300 ms of jitter or a cellular link that stalled, measured by
`loadtests netem` (with 150 ms and a memory of 1 s it was 2.0 to 2.4 s)."""
DEAD_MS, PLAY_MS = 10, 2
"""Behind by less than `DEAD_MS` is left alone, and what moves the target by less than `PLAY_MS` either way moves
nothing. A packet's length of phase is free anyway, so a steady line is never corrected."""


class JitterBuffer:
    """One leg's packets on their way into chunks. Belongs to one thread."""

    def __init__(self, decoder: Decoder, rate_hz: int = 16_000, clock_hz: int = 48_000) -> None:
        assert clock_hz % rate_hz == 0, (clock_hz, rate_hz)
        self.rate_hz = rate_hz
        self.lost_packets = 0
        """Found missing when their place had come; some of them come late."""
        self.delay_ms = 0.0
        """How old the last sample was at the last cut, less the network's best path of the last 10 s."""
        self._decoder = decoder
        self._clock_hz = clock_hz
        self._ticks = clock_hz // rate_hz  # of one sample
        self._turn = samples_of(TURN_MS, rate_hz)
        self._rush, self._stretch = samples_of(RUSH_MS, rate_hz), samples_of(STRETCH_MS, rate_hz)
        self._packets = PacketStore(clock_hz)
        self._sound = Sound(decoder, rate_hz)
        self._delay = DelayEstimator(clock_hz)
        self._arrival_jitter = JitterEstimator(clock_hz)
        self._restarts = 0
        self._started = False
        self._next = 0  # time stamp of the next packet to decode
        self._sequence = 0  # of the one before it
        self._step = clock_hz * FRAME_MS // 1000  # ticks of the packets
        self._ahead = 0  # samples made up beyond `_next` while nothing was here
        self._excess = 0  # samples that this cut still has to take out; negative: to put in
        self._skipped = 0  # samples, since the last cut
        self._told = (0, 0, 0)  # shortened, recovered, lost packets
        self._repairs = Repairs()
        self._wait_ms = 0.0  # for repair
        self._cut_ns = 0

    @property
    def account(self) -> SampleAccount:
        """What became of every sample."""
        return self._sound.account

    @property
    def packets(self) -> PacketAccount:
        """What became of every packet."""
        return self._packets.account

    @property
    def waiting(self) -> int:
        """Samples decoded and in no chunk yet."""
        return self._sound.waiting

    @property
    def waiting_packets(self) -> int:
        """Packets here and not decoded yet."""
        return self._packets.waiting

    @property
    def expected_packets(self) -> int:
        """Packets that the sender has sent as far as we know (RFC 3550 A.3)."""
        return self._packets.expected

    @property
    def highest_sequence(self) -> int:
        """Extended highest sequence number received, for receiver reports (RFC 3550 6.4.1)."""
        return self._packets.highest_sequence

    @property
    def target_ms(self) -> float:
        """Delay beyond the network's best path that the line asks for, guard and wait for repair included."""
        return max(self._delay.target_ms, GUARD_MS + self._wait_ms)

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter of RFC 3550 6.4.1."""
        return self._arrival_jitter.jitter_ms

    @property
    def loss(self) -> float:
        """Share of the packets lost over the last 10 s, 0..1, before FEC; late ones count as lost."""
        return self._repairs.loss

    def receive_packet(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        payload: bytes,
        arrival_ns: int,
        *,
        repeated: bool = False,
    ) -> None:
        """One packet with its counters as on the wire, in the order of arrival.

        A repeated one was asked for again: when it comes says nothing about the line.
        """
        for packet in self._put(ssrc, sequence, timestamp, payload, arrival_ns, repeated=repeated):
            if packet.repeated:
                self._delay.update_repeat(packet.arrival_ns, packet.timestamp)
                self._repairs.come_again()
            else:
                self._delay.update(packet.arrival_ns, packet.timestamp)
                self._arrival_jitter.update(packet.arrival_ns, packet.timestamp)

    def receive_redundant(
        self, ssrc: int, sequence: int, timestamp: int, payload: bytes, arrival_ns: int
    ) -> bool:
        """A packet that another one carries once more, before that one; True when it was missing."""
        if not self._decoder.duration(payload) or not self._packets.lacks(ssrc, sequence, timestamp):
            self.packets.redundant += 1
            return False
        self.packets.revived += 1
        self._repairs.revive()
        self._put(ssrc, sequence, timestamp, payload, arrival_ns)
        return True

    def _put(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        payload: bytes,
        arrival_ns: int,
        *,
        repeated: bool = False,
    ) -> tuple[Packet, ...]:
        """Into the store, whose bounds are kept; gives the packets that joined the stream by it."""
        ticks = self._decoder.duration(payload) * self._ticks
        joined = self._packets.put(ssrc, sequence, timestamp, ticks, payload, arrival_ns, repeated=repeated)
        if self._packets.account.restarts != self._restarts:
            self._restarts = self._packets.account.restarts
            self._delay.reset()
            self._arrival_jitter = JitterEstimator(self._clock_hz)
        while self._packets.is_over and (first := self._packets.first()) is not None:
            if not self._started:
                self._sequence = first.sequence - 1
            self._skip_to(first.end)
        return joined

    def choose_phase(self) -> None:
        """The next cut is as the first: at another phase, and without what waited while nobody cut."""
        self._started = False

    def place_ns(self, behind: int) -> int:
        """When the packet so many before the newest is cut, if turns go on as they do; 0 when its place is past."""
        newest = self._packets.highest
        if newest is None or not self._started:
            return newest.arrival_ns + TURN_NS if newest else 0
        timestamp = newest.timestamp - behind * self._step
        if timestamp < self._next:
            return 0
        ripe_ns = (
            timestamp * NS_PER_S // self._clock_hz + self._delay.floor_ns + int(self.target_ms * NS_PER_MS)
        )
        return self._cut_ns + max(1, -(-(ripe_ns - self._cut_ns) // TURN_NS)) * TURN_NS

    def is_whole(self) -> bool:
        """Whether a cut now would need no concealment; suppressed silence needs none."""
        if not self._started:
            return False
        have, at, sequence = self._sound.waiting, self._next, self._sequence
        while have < self._turn:
            packet = self._packets.holds(at)
            if packet is None or packet.sequence != sequence + 1:
                first = self._packets.first()
                return self._sound.paused and (first is None or first.sequence == sequence + 1)
            have, at, sequence = have + packet.ticks // self._ticks, packet.end, packet.sequence
        return True

    def cut(self, now_ns: int) -> Cut:
        """Exactly one turn, as of now."""
        self._cut_ns = now_ns
        self._delay.estimate()
        self._wait_ms = self._repairs.wait_ms(
            self._step * 1000 / self._clock_hz,
            self._delay.repeat_ms,
            has_fec=self._step <= samples_of(FRAME_MS, self._clock_hz),  # of a long packet it has a part only
        )
        self._excess = 0
        if not self._started:
            self._start(now_ns)
        else:
            late = self._catch_up()
            if late and self._sound.is_silent and not self._lead_in(now_ns, LATE_BOUND_MS):
                self._wait()
        if self._started:
            self._correct(now_ns)
        while self._sound.waiting < self._turn + self._surplus():
            self._pull()
        pcm, made_up = self._sound.take(self._turn, self._surplus())
        self._measure(now_ns)
        return Cut(pcm, made_up, *self._tell())

    def _start(self, now_ns: int) -> None:
        """The leg's phase is chosen here."""
        first = self._packets.first()
        if first is None:
            self._sound.make_up(self._turn - self._sound.waiting)
            return
        self._started = True
        self._sound.drop()
        self._ahead = 0
        self._move_to(first)
        if not self._lead_in(now_ns, 0):
            self._fill_front(self._turn)

    def _lead_in(self, now_ns: int, bound_ms: int) -> bool:
        """Out of silence: what is missing of the chunk goes in front of the speech, not behind it.

        The newest packet that had its time to come ends the chunk; of older ones `bound_ms` more than a turn
        are kept. False when there is no such packet.
        """
        end = self._packets.settled_end(now_ns - GUARD_MS * NS_PER_MS)
        if end is None:
            return False
        end = min(end, self._ripe_end(self._wanted_ns(now_ns)))
        if end <= self._next:
            return False
        self._skip_to(end - (self._turn + samples_of(bound_ms, self.rate_hz)) * self._ticks)
        self._fill_front(self._turn - self._sound.waiting - (end - self._next) // self._ticks)
        return True

    def _fill_front(self, samples: int) -> None:
        if samples <= 0:
            return
        if self.packets.decoded:
            self._sound.make_up(samples)
        else:
            self._sound.pad(samples)

    def _wait(self) -> None:
        """A turn of silence; what is here is too young to begin with."""
        missing = self._turn - self._sound.waiting
        if missing > 0:
            self._ahead += missing
            self._sound.make_up(missing)

    def _catch_up(self) -> bool:
        """What was made up while nothing was here has covered that much of a gap in the time stamps.

        True when more was made up than is missing: what comes now is late, or its sender's clock stood still.
        """
        first = self._packets.first()
        if first is None:
            return False
        gap, made_up = first.timestamp - self._next, self._ahead * self._ticks
        self._next += min(gap, made_up)
        self._ahead = 0
        return made_up > gap

    def _correct(self, now_ns: int) -> None:
        """Sets what this cut takes out or puts in so that its end keeps the target."""
        newest = self._packets.newest
        if newest is None:
            return
        self._excess = self._behind(now_ns, newest.end) // self._ticks
        bound = samples_of(LATE_BOUND_MS, self.rate_hz)
        surplus = self._packets.waiting_ticks // self._ticks + self._sound.waiting - self._turn
        while (first := self._packets.first()) is not None:
            sound, gap = first.ticks // self._ticks, (first.timestamp - self._next) // self._ticks
            if min(self._excess - gap, surplus) < bound + sound:
                return
            surplus -= sound
            self._skip(first)

    def _behind(self, now_ns: int, newest_end: int) -> int:
        """Ticks that an uncorrected cut ends behind the target; negative: ahead; 0: left alone."""
        end = self._next + (self._turn - self._sound.waiting) * self._ticks
        wanted_ns = self._wanted_ns(now_ns)
        behind = min(self._ripe_end(wanted_ns - PLAY_MS * NS_PER_MS), newest_end) - end
        if behind >= self._clock_hz * DEAD_MS // 1000:
            return behind
        return min(0, self._ripe_end(wanted_ns + PLAY_MS * NS_PER_MS) - end)

    def _wanted_ns(self, now_ns: int) -> int:
        """What was sent by then, in the time of the stream, has had its time to come."""
        return now_ns - self._delay.floor_ns - int(self.target_ms * NS_PER_MS)

    def _ripe_end(self, media_ns: int) -> int:
        """How far the packets go that begin at `media_ns` or before.

        Where a turn is no whole number of packets, what is more in this turn than in the worst is left out.
        """
        grid = math.gcd(self._step, self._turn * self._ticks)
        return self._next + ((media_ns * self._clock_hz // NS_PER_S - self._next) // grid + 1) * grid

    def _surplus(self) -> int:
        return max(-self._stretch, min(self._excess, self._rush))

    def _skip_to(self, timestamp: int) -> None:
        """Leaves out the packets that end at `timestamp` or before."""
        while (packet := self._packets.first()) is not None and packet.end <= timestamp:
            self._skip(packet)

    def _skip(self, packet: Packet) -> None:
        self._packets.take(packet)
        self.packets.skipped += 1
        self._skipped += packet.ticks // self._ticks
        self._excess -= (packet.end - self._next) // self._ticks
        self._pass(packet)

    def _pull(self) -> None:
        """One step of the stream: more sound, or less to take out."""
        packet = self._packets.holds(self._next)
        following = packet or self._packets.first()
        if packet is not None:
            self._decode(packet)
        elif following is not None:
            self._fill(following)
        else:
            missing = self._turn + self._surplus() - self._sound.waiting
            self._ahead += missing
            self._sound.make_up(missing)

    def _decode(self, packet: Packet) -> None:
        self._packets.take(packet)
        self._pass(packet)
        self._repairs.decode(
            repeated=packet.repeated, fec=lambda: self._decoder.recoverable(packet.payload) > 0
        )
        if self._sound.decode(packet.payload, packet.ticks // self._ticks):
            self.packets.decoded += 1
        else:
            self.packets.undecodable += 1

    def _fill(self, following: Packet) -> None:
        """A step towards `following`, which is not next: nothing, noise, or a lost packet."""
        gap = (following.timestamp - self._next) // self._ticks
        lost, step = max(0, following.sequence - self._sequence - 1), self._step // self._ticks
        if gap <= 0:
            self._move_to(following, lost)
        elif self._excess > 0:
            closed = min(gap, self._excess)
            self._excess -= closed
            self._advance(closed)
        elif gap > lost * step:
            silence = min(step, gap - lost * step)
            self._advance(silence)
            self._sound.comfort(silence)
        else:
            self._repair(following, min(gap, step), is_last=lost == 1)

    def _repair(self, following: Packet, samples: int, *, is_last: bool) -> None:
        """One lost packet; the last before `following` may be found there once more."""
        self._lose(1)
        self._sequence += 1
        self._advance(samples)
        if is_last:
            self._sound.recover(following.payload, samples)
        else:
            self._sound.conceal(samples)

    def _pass(self, packet: Packet) -> None:
        """The stream is at the end of `packet`; what is missing before it is lost."""
        self._lose(max(0, packet.sequence - self._sequence - 1))
        self._step, self._sequence, self._next = packet.ticks, packet.sequence, packet.end
        self._packets.pass_to(self._next)

    def _move_to(self, packet: Packet, lost: int = 0) -> None:
        self._lose(lost)
        self._sequence = packet.sequence - 1
        self._next = packet.timestamp
        self._packets.pass_to(self._next)

    def _lose(self, packets: int) -> None:
        self.lost_packets += packets
        self._repairs.lose(packets)

    def _advance(self, samples: int) -> None:
        self._next += samples * self._ticks
        self._packets.pass_to(self._next)

    def _measure(self, now_ns: int) -> None:
        """How old the end of this chunk is; not said while nothing comes."""
        if self._started and not self._ahead:
            begin = self._next - self._sound.waiting * self._ticks - self._step
            self.delay_ms = (now_ns - self._delay.floor_ns - begin * NS_PER_S // self._clock_hz) / NS_PER_MS

    def _tell(self) -> tuple[int, int]:
        """Dropped samples and lost packets since the last cut."""
        now = (self.account.shortened, self.account.recovered, self.lost_packets)
        shortened, recovered, lost = (new - old for new, old in zip(now, self._told, strict=True))
        self._told = now
        self._repairs.end_turn(recovered * self._ticks // self._step)
        skipped, self._skipped = self._skipped, 0
        return shortened + skipped, lost
