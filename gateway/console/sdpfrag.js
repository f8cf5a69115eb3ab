/**
 * Fragments of session descriptions: what a PATCH of WHIP carries (RFC 8840, RFC 9725 section 4.3).
 *
 * Text in, text out. One rule: an m-section of a fragment is named by its mid.
 */

const lines = (sdp) => sdp.split(/\r?\n/).filter(Boolean);
const joined = (parts) => `${parts.join('\r\n')}\r\n`;
const value = (parts, prefix) => parts.find((line) => line.startsWith(prefix))?.slice(prefix.length);

/** Is the other side ICE-lite (RFC 8445 section 2.5)? Then it has no use for our candidates. */
export const isLite = (sdp) => lines(sdp).includes('a=ice-lite');

/** ICE user fragment and password, the first ones of a description or a fragment. */
export function credentials(sdp) {
  const all = lines(sdp);
  return { ufrag: value(all, 'a=ice-ufrag:') ?? '', password: value(all, 'a=ice-pwd:') ?? '' };
}

/** The fragment that tells the credentials of an offer, and candidates of it: its bundle's first m-section. */
export function fragmentOf(sdp, candidates = [], complete = false) {
  const all = lines(sdp);
  const media = all.findIndex((line) => line.startsWith('m='));
  const { ufrag, password } = credentials(sdp);
  const group = all.find((line) => line.startsWith('a=group:BUNDLE'));
  const section = [all[media], `a=mid:${value(all.slice(media), 'a=mid:') ?? '0'}`];
  return joined([
    ...(group ? [group] : []),
    ...section,
    `a=ice-ufrag:${ufrag}`,
    `a=ice-pwd:${password}`,
    ...candidates.map((candidate) => `a=${candidate.replace(/^a=/, '')}`),
    ...(complete ? ['a=end-of-candidates'] : []),
  ]);
}

/** An answer with the ICE credentials and candidates of a fragment in place of its own, in every m-section. */
export function withFragment(answer, fragment) {
  const { ufrag, password } = credentials(fragment);
  const candidates = [...new Set(lines(fragment).filter((line) => line.startsWith('a=candidate:')))];
  const renewed = lines(answer)
    .filter((line) => !line.startsWith('a=candidate:') && line !== 'a=end-of-candidates')
    .flatMap((line) => {
      if (line.startsWith('a=ice-ufrag:')) return [`a=ice-ufrag:${ufrag}`];
      if (line.startsWith('a=ice-pwd:')) return [`a=ice-pwd:${password}`, ...candidates];
      return [line];
    });
  return joined(renewed);
}
