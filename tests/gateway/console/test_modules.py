"""The page's modules that are pure: run in Chromium, values in, values out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import run_module

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

OFFER = """v=0\r
o=- 1 2 IN IP4 127.0.0.1\r
s=-\r
t=0 0\r
a=group:BUNDLE 0 1\r
m=audio 9 UDP/TLS/RTP/SAVPF 111\r
c=IN IP4 0.0.0.0\r
a=ice-ufrag:abcd\r
a=ice-pwd:0123456789012345678901\r
a=mid:0\r
m=video 9 UDP/TLS/RTP/SAVPF 96\r
a=ice-ufrag:abcd\r
a=ice-pwd:0123456789012345678901\r
a=candidate:1 1 udp 1 192.0.2.1 1000 typ host\r
a=end-of-candidates\r
a=mid:1\r
"""


# -- timeline.js


def timeline(page: Page, expression: str, *arguments: object) -> Any:
    return run_module(page, "timeline.js", expression, *arguments)


@pytest.mark.parametrize(
    ("dbov", "height"), [(-96, 0), (-60, 0), (-33, 0.5), (-6, 1), (0, 1)], ids=lambda value: str(value)
)
def test_height_of_a_column(page: Page, dbov: float, height: float) -> None:
    assert timeline(page, "m.height(a[0])", dbov) == pytest.approx(height)


def test_turns_that_were_never_told_are_not_silence(page: Page) -> None:
    window = timeline(
        page,
        """(() => { const t = new m.Timeline();
             t.add(4, [[-20, -96, 40, 2, 5, 0, 16]]); t.add(7, [[-96, -30, 0, 0, 0, 200, 0]]);
             return t.window(4); })()""",
    )
    assert window[1] is None and window[2] is None
    assert window[0] == {
        "inDbov": -20, "outDbov": -96, "concealedMs": 40, "lostPackets": 2, "droppedMs": 5, "heardMs": 0,
        "flags": 16,
    }  # fmt: skip
    assert window[3]["heardMs"] == 200


def test_the_time_line_forgets_beyond_its_limit(page: Page) -> None:
    kept = timeline(
        page,
        """(() => { const t = new m.Timeline({ limit: 10 });
             for (let i = 0; i < 1000; i += 1) t.add(i, [[-20, -20, 0, 0, 0, 0, 0]]);
             return [t.get(989), t.get(990) !== null, t.last]; })()""",
    )
    assert kept == [None, True, 999]


def test_segments_join_short_pauses_and_tell_what_happened(page: Page) -> None:
    quiet, loud = -96, -20
    rows = [[loud, quiet, 0, 0, 0, 0, 0]] * 3 + [[quiet, quiet, 0, 0, 0, 0, 0]] * 2
    rows += [[loud, loud, 60, 3, 0, 200, 0]] * 2 + [[quiet, loud, 0, 0, 0, 90, 8]]
    rows += [[quiet, quiet, 0, 0, 0, 0, 0]] * 6 + [[loud, quiet, 0, 0, 0, 0, 2]]
    found = timeline(
        page,
        "(() => { const t = new m.Timeline(); t.add(0, a[0]); return t.segments().map(m.describe); })()",
        rows,
    )
    assert found == [
        "You spoke, 0:00 to 0:02, 120 ms concealed.",
        "The model spoke, 0:01 to 0:02, and was cut off.",
        "You spoke, 0:02 to 0:03.",
        "The model spoke, 0:02 to 0:03, one turn missing.",
    ]


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0:00"), (59_999, "0:59"), (75_000, "1:15"), (3_600_000, "60:00")]
)
def test_clock(page: Page, ms: int, text: str) -> None:
    assert timeline(page, "m.clock(a[0])", ms) == text


# -- channel.js


def test_messages_of_the_protocol_are_taken(page: Page) -> None:
    good = [
        '{"type":"hello","version":1,"call":"b-1","turn_ms":200,"engine":"echo","resumed":false}',
        '{"type":"caption","turn":3,"text":"One, "}',
        '{"type":"cut","turn":3,"heard_ms":120}',
        '{"type":"action","turn":3,"action":"hangup"}',
        '{"type":"turns","first":6,"turns":[[-31,-96,0,0,0,0,16],[-28,-33,40,2,0,200,0,99]],"delay_ms":24}',
        '{"type":"heard","turn":3,"text":"three plus"}',
        '{"type":"task","task":"1-ab","state":"running","text":"It is ","note":""}',
        '{"type":"error","code":"too-fast","message":"slowly"}',
        '{"type":"bye","reason":"drain","of a later version":1}',
    ]
    assert all(run_module(page, "channel.js", "a[0].map(m.parse)", good))


@pytest.mark.parametrize(
    "bad",
    [
        "", "{", "null", "3", '"hello"', "[]", "{}", '{"type":"toString"}', '{"type":"constructor"}',
        '{"type":"hello","version":2,"call":"b-1","turn_ms":200}', '{"type":"caption","turn":-1,"text":"x"}',
        '{"type":"caption","turn":1,"text":5}', '{"type":"turns","first":0,"turns":[[1,2,3]]}',
        '{"type":"turns","first":0,"turns":[[1,2,3,4,5,6,"7"]]}', '{"type":"turns","first":0.5,"turns":[]}',
    ],
)  # fmt: skip
def test_anything_else_is_not(page: Page, bad: str) -> None:
    assert run_module(page, "channel.js", "m.parse(a[0])", bad) is None


def test_length_of_a_text_is_in_bytes(page: Page) -> None:
    assert run_module(page, "channel.js", "m.textBytes(a[0])", "zählen…") == 10


# -- tasks.js


def test_pieces_of_a_task_are_joined_and_its_request_stays(page: Page) -> None:
    messages = [
        {"state": "asked", "request": "caller: 3 plus 4"},
        {"state": "running", "note": "calculator"},
        {"state": "running", "text": "It is "},
        {"state": "done", "text": "seven."},
    ]
    task = run_module(page, "tasks.js", "a[0].reduce(m.after, null)", messages)
    assert task == {"state": "done", "request": "caller: 3 plus 4", "text": "It is seven.", "note": ""}
    assert (
        len(run_module(page, "tasks.js", "m.after(null, a[0])", {"state": "x", "text": 9999 * "y"})["text"])
        == 2000
    )


def test_rows_come_and_go_with_tasks(page: Page) -> None:
    seen = run_module(
        page,
        "tasks.js",
        """(() => { const list = document.createElement('ul'); list.hidden = true; const gone = [];
             const tasks = new m.Tasks(list, (name) => gone.push(name)); const seen = [list.hidden];
             tasks.take({ task: 'a', state: 'asked', request: '<b>x</b>' });
             tasks.take({ task: 'b', state: 'running', note: 'clock' });
             list.querySelector('button').click();
             tasks.take({ task: 'a', state: 'done', text: '7' }); tasks.end();
             seen.push(list.hidden, gone, [...list.children].map((row) => [row.dataset.state, row.innerText]));
             for (let i = 0; i < 20; i += 1) tasks.take({ task: `t${i}`, state: 'asked' });
             seen.push(list.childElementCount); tasks.clear(); seen.push(list.childElementCount, list.hidden);
             return seen; })()""",
    )
    assert seen[:3] == [True, False, ["a"]] and seen[4:] == [8, 0, True]
    (done, words), (cancelled, _) = seen[3]
    assert (done, cancelled) == ("done", "cancelled") and "<b>x</b>" in words and "7" in words


# -- sdpfrag.js


def test_a_fragment_names_credentials_and_mid(page: Page) -> None:
    fragment = run_module(
        page, "sdpfrag.js", "m.fragmentOf(a[0], ['candidate:7 1 udp 1 127.0.0.1 9 typ host'], true)", OFFER
    )
    assert fragment.split("\r\n") == [
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "a=mid:0",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:0123456789012345678901",
        "a=candidate:7 1 udp 1 127.0.0.1 9 typ host",
        "a=end-of-candidates",
        "",
    ]


def test_the_gateway_reads_our_fragments(page: Page) -> None:
    from gateway.api.sdpfrag import parse

    candidate = (
        "candidate:7 1 udp 2113937151 127.0.0.1 40000 typ host generation 0 ufrag abcd network-cost 999"
    )
    fragment = parse(run_module(page, "sdpfrag.js", "m.fragmentOf(a[0], [a[1]])", OFFER, candidate))
    assert (fragment.ufrag, fragment.pwd) == ("abcd", "0123456789012345678901")
    assert fragment.candidates == (candidate.removeprefix("candidate:"),) and not fragment.complete


def test_an_answer_takes_the_credentials_and_candidates_of_a_restart(page: Page) -> None:
    fragment = "a=ice-ufrag:WXYZ\r\na=ice-pwd:new\r\na=candidate:2 1 udp 9 127.0.0.1 7 typ host\r\n"
    answer = run_module(page, "sdpfrag.js", "m.withFragment(a[0], a[1])", OFFER, fragment)
    assert answer.count("a=ice-ufrag:WXYZ\r\n") == answer.count("a=ice-pwd:new\r\n") == 2
    assert answer.count("a=candidate:") == answer.count("127.0.0.1 7 typ host") == 2
    assert "abcd" not in answer and "192.0.2.1" not in answer and "end-of-candidates" not in answer
    assert answer.count("\r\nm=") == 2


# -- whip.js, stats.js, camera.js, captions.js, messages.js


STATUSES: list[tuple[int, dict[str, object], str]] = [
    (400, {}, "refused"),
    (401, {}, "token-needed"),
    (401, {"hasToken": True}, "token-refused"),
    (403, {}, "refused"),
    (403, {"hasToken": True}, "token-refused"),
    (404, {}, "away"),
    (404, {"resuming": True}, "gone"),
    (404, {"told": "no-such-name"}, "no-such-name"),
    (422, {}, "refused"),
    (429, {}, "too-fast"),
    (502, {}, "away"),
    (503, {}, "full"),
    (503, {"told": "not-ready"}, "not-ready"),
    (504, {"resuming": True}, "away"),
]


@pytest.mark.parametrize(("status", "options", "code"), STATUSES)
def test_what_a_status_means(page: Page, status: int, options: dict[str, object], code: str) -> None:
    assert run_module(page, "whip.js", "m.failureOf(...a).code", status, options) == code


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3), ("0", 1), ("99999", 600), ("", 5), ("soon", 5), ("Thu, 01 Jan 1970 00:00:12 GMT", 12)],
)
def test_retry_after_in_both_forms(page: Page, header: str, seconds: int) -> None:
    assert run_module(page, "whip.js", "m.retryAfterS(a[0], 0)", header) == seconds


def test_every_failure_has_words_and_known_buttons(page: Page) -> None:
    failures = run_module(
        page,
        "messages.js",
        "Object.values(m.FAILURES).map((f) => [f.title, f.text, f.actions.every((x) => m.ACTIONS[x])])",
    )
    assert len(failures) > 20
    assert all(title and text.endswith(".") and known for title, text, known in failures)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("NotFoundError", "no-microphone"), ("NotAllowedError", "microphone-denied"),
        ("NotReadableError", "microphone-busy"), ("AbortError", "microphone-busy"),
    ],
)  # fmt: skip
def test_what_an_error_of_the_microphone_means(page: Page, error: str, code: str) -> None:
    assert (
        run_module(page, "messages.js", "m.deviceFailure('microphone', { name: a[0] }).code", error) == code
    )


@pytest.mark.parametrize(
    ("size", "scale"),
    [((640, 480), 2), ((1280, 720), 3), ((320, 240), 1), ((160, 120), 1), ((480, 640), 1.5)],
)
def test_a_camera_is_scaled_down_to_what_the_model_sees(
    page: Page, size: tuple[int, int], scale: float
) -> None:
    encoding = run_module(page, "camera.js", "m.encodingFor({ width: a[0], height: a[1] }, true)", *size)
    assert encoding["scaleResolutionDownBy"] == pytest.approx(scale)
    assert 5 <= encoding["maxFramerate"] <= 10
    whole = run_module(page, "camera.js", "m.encodingFor({ width: a[0], height: a[1] }, false)", *size)
    assert whole["scaleResolutionDownBy"] == 1


@pytest.mark.parametrize(
    ("heard_ms", "parts"),
    [
        (0, ["", "one two three"]), (200, ["one two three", ""]), (90, ["one", " two three"]),
        (110, ["one two", " three"]), (999, ["one two three", ""]), (-5, ["", "one two three"]),
    ],
)  # fmt: skip
def test_what_was_heard_of_a_piece_ends_with_a_word(page: Page, heard_ms: int, parts: list[str]) -> None:
    assert run_module(page, "captions.js", "m.splitHeard('one two three', a[0], 200)", heard_ms) == parts


def test_figures_of_the_browser(page: Page) -> None:
    report = """(lost, received, seconds) => new Map(Object.entries({
      T: { type: 'transport', selectedCandidatePairId: 'P' },
      P: { type: 'candidate-pair', currentRoundTripTime: 0.042, localCandidateId: 'L' },
      L: { type: 'local-candidate', candidateType: 'relay', protocol: 'udp', relayProtocol: 'tcp' },
      I: { type: 'inbound-rtp', kind: 'audio', jitter: 0.003, packetsLost: lost, packetsReceived: received,
           jitterBufferDelay: 0.06 * received, jitterBufferEmittedCount: received,
           totalSamplesReceived: 960 * received, concealedSamples: 0, silentConcealedSamples: 0 },
      O: { type: 'outbound-rtp', kind: 'audio', bytesSent: 4000 * seconds, timestamp: 1000 * seconds },
    }))"""
    figures = run_module(
        page,
        "stats.js",
        f"(() => {{ const of = {report}; const b = m.browserFigures(of(5, 100, 1));"
        " return m.browserFigures(of(15, 190, 2), b); })()",
    )
    assert figures["roundTripMs"] == pytest.approx(42) and figures["jitterMs"] == pytest.approx(3)
    assert figures["bufferMs"] == pytest.approx(60) and figures["kbpsOut"] == pytest.approx(32)
    assert figures["lossIn"] == pytest.approx(0.1)  # of the second since, not of the call
    assert figures["path"] == "relay, tcp" and figures["camera"] is None
    empty = run_module(page, "stats.js", "m.browserFigures(new Map())")
    assert empty["roundTripMs"] is empty["jitterMs"] is empty["lossIn"] is empty["path"] is None


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0, "0 %"), (0.0004, "< 0.1 %"), (0.004, "0.4 %"), (0.25, "25 %")]
)
def test_percent(page: Page, share: float | None, text: str) -> None:
    assert run_module(page, "stats.js", "m.percent(a[0])", share) == text
