"""A browser that got in and means harm: aiortc's own connection, and whatever is said over it with its keys.

It is also how somebody looks who forges the address of a live caller: `forge` sends from this caller's own socket
what this caller never signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pylibsrtp
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcsctptransport import serialize_packet
from aiortc.sdp import SessionDescription

from loadtests import aiortc_taps as taps
from loadtests.hostile.webrtc import Media, sctp_chunks

CONNECT_S = 10.0


class Chunks:
    """Several chunks where aiortc's serialiser expects one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class Browser:
    """One connected caller with sound, pictures and a channel."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.messages: list[dict[str, Any]] = []
        self.url = ""
        self.audio_type = 0
        self.video_types: list[int] = []
        self.channel: RTCDataChannel
        self._connected = asyncio.Event()
        self._media: Media | None = None

    @classmethod
    async def connect(cls, http: aiohttp.ClientSession, whip_url: str, token: str) -> Browser:
        """Raises TimeoutError when no media flows in time, and aiohttp's errors when it is refused."""
        taps.allow_loopback()
        self = cls()
        self.peer.addTransceiver(taps.SilentTrack("audio"), direction="sendrecv")
        self.peer.addTransceiver(taps.SilentTrack("video"), direction="sendonly")
        self.channel = self.peer.createDataChannel("microturn", protocol="microturn.v1")
        self.channel.on("message", self._told)
        self.channel.on("open", self._connected.set)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
        body = self.peer.localDescription.sdp.encode()
        async with http.post(whip_url, data=body, headers=headers) as response:
            response.raise_for_status()
            answer = await response.text()
            self.url = urljoin(whip_url, response.headers["Location"])
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        for media in SessionDescription.parse(answer).media:
            types = [c.payloadType for c in media.rtp.codecs if c.payloadType is not None]
            if media.kind == "audio":
                self.audio_type = types[0]
            elif media.kind == "video":
                self.video_types = types
        async with asyncio.timeout(CONNECT_S):
            await self._connected.wait()
        return self

    @property
    def _dtls(self) -> Any:
        transceiver = taps.find_transceiver(self.peer, "audio")
        assert transceiver is not None
        return taps.transport_of(transceiver)

    def _told(self, message: str | bytes) -> None:
        with contextlib.suppress(ValueError):
            self.messages.append(json.loads(message))

    # -- what it says

    def forge(self, data: bytes) -> None:
        """Any datagram, from this caller's address. Raises ConnectionError when there is no pair any more."""
        nominated = self._dtls.transport._connection._nominated
        if 1 not in nominated or self._dtls.state != "connected":
            raise ConnectionError("the connection is over")
        pair = nominated[1]
        pair.protocol.transport.sendto(data, pair.remote_addr)

    def send_rtp(self, packet: bytes) -> None:
        """As of this caller, protected; what libsrtp itself refuses is left out."""
        with contextlib.suppress(pylibsrtp.Error):
            self.forge(self._dtls._tx_srtp.protect(packet))

    def send_rtcp(self, packet: bytes) -> None:
        """A compound packet, protected."""
        with contextlib.suppress(pylibsrtp.Error):
            self.forge(self._dtls._tx_srtp.protect_rtcp(packet))

    def send_records(self, rng: random.Random) -> None:
        """One datagram of many DTLS records of data, each of them authentic."""
        ssl, data = self._dtls._ssl, b""
        for _ in range(rng.choice((2, 20))):
            ssl.send(rng.randbytes(20))
            data += ssl.bio_read(1500)
        self.forge(data)

    async def send_sctp(self, rng: random.Random) -> None:
        """A packet of the association with a right tag and checksum."""
        sctp = self.peer.sctp
        assert sctp is not None
        chunks = Chunks(sctp_chunks(rng, (sctp._local_tsn - 1) & 0xFFFFFFFF))
        tag = sctp._remote_verification_tag
        await self._dtls._send_data(serialize_packet(sctp.port, sctp.port, tag, chunks))  # type: ignore[arg-type]

    def media(self, rng: random.Random) -> Media:
        """The source of its RTP."""
        self._media = self._media or Media(rng, self.audio_type, self.video_types)
        return self._media

    async def hang_up(self, http: aiohttp.ClientSession, token: str) -> None:
        """DELETE, and away; harmless when the call is over already."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with http.delete(self.url, headers={"Authorization": f"Bearer {token}"}):
                pass
        await self.peer.close()
