/**
 * A WHIP caller made of libdatachannel, by way of the npm package node-datachannel.
 *
 *     node libdatachannel_caller.cjs WHIP-URL TOKEN
 *
 * Lines of JSON. In: {"rtp": base64} to send, {"say": text} on the data channel, {"hangUp": true}. Out:
 * {"refused": status}, {"called": location}, {"state": state}, {"open": true}, {"rtp": base64}, {"message": text}.
 * It knows nothing of sound: RTP comes and goes whole.
 */

const readline = require('node:readline');
const { Audio, PeerConnection } = require('node-datachannel');

const PAYLOAD_TYPE = 96;
const SSRC = 0x6d696372;

const [url, token] = process.argv.slice(2);
const authorization = token ? { Authorization: `Bearer ${token}` } : {};
const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const peer = new PeerConnection('caller', {
  iceServers: [],
  bindAddress: '127.0.0.1',
  disableAutoNegotiation: true,
});
const audio = new Audio('0', 'SendRecv');
audio.addOpusCodec(PAYLOAD_TYPE);
audio.addSSRC(SSRC, 'caller', 'caller', 'voice');
const track = peer.addTrack(audio);
const channel = peer.createDataChannel('microturn', { protocol: 'microturn.v1' });
let location = '';

async function call() {
  const headers = { 'Content-Type': 'application/sdp', ...authorization };
  const answer = await fetch(url, { method: 'POST', headers, body: peer.localDescription().sdp });
  if (answer.status !== 201) {
    tell({ refused: answer.status });
    leave();
    return;
  }
  location = new URL(answer.headers.get('location'), url).href;
  tell({ called: location });
  peer.setRemoteDescription(await answer.text(), 'answer');
}

async function hangUp() {
  const answer = await fetch(location, { method: 'DELETE', headers: authorization });
  tell({ deleted: answer.status });
  leave();
}

function leave() {
  peer.close();
  setTimeout(() => process.exit(), 100); // lets the lines out
}

track.onMessage((packet) => {
  if ((packet[1] & 0x7f) === PAYLOAD_TYPE) tell({ rtp: packet.toString('base64') }); // and no RTCP
});
channel.onOpen(() => tell({ open: true }));
channel.onMessage((text) => tell({ message: String(text) }));
peer.onStateChange((state) => tell({ state }));
peer.onGatheringStateChange((state) => state === 'complete' && call());
peer.setLocalDescription('offer');

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { rtp, say, hangUp: over } = JSON.parse(line);
  if (rtp && track.isOpen()) track.sendMessageBinary(Buffer.from(rtp, 'base64'));
  if (say) channel.sendMessage(say);
  if (over) hangUp();
}).on('close', leave);
