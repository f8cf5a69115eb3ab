"""The command `microturn`: everything that an operator does by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from setproctitle import setproctitle

from gateway.config import GatewaySettings, load
from gateway.engines import ask_moshi
from gateway.keeper import heed_keeper
from gateway.log import set_up_logging
from gateway.operator import ask
from gateway.rules import Inbound
from gateway.up import MODEL_SERVER, run_all, slots_said

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

recordings = typer.Typer(help="Recordings of calls.", no_args_is_help=True)
app.add_typer(recordings, name="recordings")
policy = typer.Typer(help="What the model may not say.", no_args_is_help=True)
app.add_typer(policy, name="policy")

Engine = Annotated[
    str | None, typer.Option(help="what answers the calls: auto, digits, sglang, moshi or echo")
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_REPO", help="of moshi: a folder, or a repository that was downloaded"),
]
Persona = Annotated[str | None, typer.Option(help="what the model is to do, such as: correct 482913")]
SipPort = Annotated[int | None, typer.Option(help="UDP and TCP port of SIP; 0 takes a free one")]
SipHost = Annotated[str | None, typer.Option(help="address that SIP listens on")]
SipCalls = Annotated[int | None, typer.Option(help="calls at once; beyond it 503 with Retry-After")]
WebrtcCalls = Annotated[int | None, typer.Option(help="browser calls at once; 0 is none at all")]
WebrtcHost = Annotated[str | None, typer.Option(help="address that browsers' media is received on")]
Video = Annotated[str | None, typer.Option(help="whether browsers may send a camera: off or on")]
HttpHost = Annotated[str | None, typer.Option(help="address of the page, WHIP, health and metrics")]
HttpPort = Annotated[int | None, typer.Option(help="their port; 0 takes a free one")]
Redis = Annotated[
    str | None, typer.Option(help="where the state of calls is kept: redis://HOST:PORT/DB, ..., off or auto")
]
RunDir = Annotated[Path | None, typer.Option(help="directory of the control sockets")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error")]
Kept = Annotated[bool, typer.Option("--kept", hidden=True)]
"""Standard input is a pipe of whoever started us: see `gateway/keeper.py`."""


def _settings(**flags: Any) -> GatewaySettings:
    """Settings, or the end of the command with a message that says what to change."""
    try:
        return load(**flags)
    except ValueError as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None


def _run(process: str, settings: GatewaySettings, work: Any) -> None:
    set_up_logging(process, settings.log_level, settings.log_format)
    try:
        status = work()
    except (ValueError, OSError) as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(status)


@app.command()
def up(
    engine: Engine = None,
    weights: Weights = None,
    persona: Persona = None,
    sip_host: SipHost = None,
    sip_port: SipPort = None,
    sip_calls: SipCalls = None,
    webrtc_host: WebrtcHost = None,
    webrtc_calls: WebrtcCalls = None,
    video: Video = None,
    http_host: HttpHost = None,
    http_port: HttpPort = None,
    redis: Redis = None,
    run_dir: RunDir = None,
    log_level: LogLevel = None,
    kept: Kept = False,
) -> None:
    """Everything on this machine, in one terminal. Ctrl-C ends it; SIGTERM lets live calls end first (drain_s)."""
    flags = dict(
        engine=engine, weights=weights, persona=persona, sip_host=sip_host, sip_port=sip_port, sip_calls=sip_calls,
        webrtc_host=webrtc_host, webrtc_calls=webrtc_calls, video=video, http_host=http_host,
        http_port=http_port, redis=redis, run_dir=run_dir, log_level=log_level,
    )  # fmt: skip
    settings = _settings(**flags)
    _look_at_weights(settings)
    setproctitle("microturn: up")
    if kept:
        heed_keeper(signal.SIGINT)
    _run("up", settings, lambda: asyncio.run(run_all(settings, flags)))


def _look_at_weights(settings: GatewaySettings) -> None:
    """The end of the command, before anything is started, where weights cannot be held here or are of no use."""
    for name, further in settings.engines.items():
        if further.engine == "moshi":
            _look_at_moshi(further.weights, further.slots, f"engines.{name}: ")
    if settings.engine != "moshi":
        if settings.weights:
            wrong = (
                f"weights = {settings.weights!r} with engine = {settings.engine!r}: expected engine = 'moshi'"
            )
            typer.echo(f"microturn: {wrong}; --engine moshi, or no weights", err=True)
            raise typer.Exit(2)
        return
    _look_at_moshi(settings.weights, slots_said(settings))


def _look_at_moshi(weights: str, slots: int | None, whose: str = "") -> None:
    held = ask_moshi(weights, slots)
    typer.echo(f"microturn: {whose}{held.found}", err=True)
    if not held.can_start:
        raise typer.Exit(2)
    if not held.good:
        typer.echo(f"microturn: LOOK: {whose}{held.advice}", err=True)


@app.command()
def gateway(
    sip_host: SipHost = None,
    sip_port: SipPort = None,
    sip_calls: SipCalls = None,
    webrtc_host: WebrtcHost = None,
    webrtc_calls: WebrtcCalls = None,
    video: Video = None,
    http_host: HttpHost = None,
    http_port: HttpPort = None,
    redis: Redis = None,
    run_dir: RunDir = None,
    log_level: LogLevel = None,
    kept: Kept = False,
) -> None:
    """The gateway alone: SIP edge, browser calls, their workers, health and metrics. SIGTERM drains it."""
    settings = _settings(
        sip_host=sip_host, sip_port=sip_port, sip_calls=sip_calls, webrtc_host=webrtc_host,
        webrtc_calls=webrtc_calls, video=video, http_host=http_host, http_port=http_port, redis=redis,
        run_dir=run_dir, log_level=log_level,
    )  # fmt: skip
    setproctitle("microturn: gateway")
    if kept:  # nobody would start it again: live calls may end, new ones go elsewhere
        heed_keeper(signal.SIGTERM)
    from gateway.main import run

    _run("gateway", settings, lambda: run(settings))


@app.command()
def worker(
    redis: Redis = None, run_dir: RunDir = None, log_level: LogLevel = None, kept: Kept = False
) -> None:
    """A background worker: does what models hand off while they go on talking. Any number may share a Redis."""
    settings = _settings(redis=redis, run_dir=run_dir, log_level=log_level)
    setproctitle("microturn: worker")
    if kept:
        heed_keeper(signal.SIGTERM)
    from gateway.background.worker import run

    _run("worker", settings, lambda: run(settings))


@app.command()
def upgrade(
    run_dir: RunDir = None,
    engine: Annotated[str, typer.Option(help="one of engines; nothing is the usual one")] = "",
) -> None:
    """A new model server, with today's code, settings and checkpoint, takes over in a running `microturn up`.

    Calls go on, and nobody hears of it. Exit status 1 when the old one goes on instead; it says why.
    """
    settings = _settings(run_dir=run_dir)
    try:
        outcome = asyncio.run(ask(settings.run_dir, typer.echo, engine))
    except (ValueError, OSError) as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    typer.echo(outcome.said, err=not outcome.done)
    raise typer.Exit(0 if outcome.done else 1)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def model(context: typer.Context) -> None:
    """The model server alone; its own flags follow (`python -m model_server --help`)."""
    # another package, never imported here: it becomes this process
    os.execv(sys.executable, [*MODEL_SERVER, *context.args])


@app.command()
def call(
    uri: Annotated[str, typer.Argument(help="whom to call, such as sip:127.0.0.1:5060")],
    play: Annotated[Path, typer.Option(help="WAV or FLAC that is spoken into the call")],
    record: Annotated[Path | None, typer.Option(help="WAV that gets what is heard")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="length of the call; the file's when not given")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.0, help="seconds of silence after the file, for an answer")
    ] = 1.0,
    codec: Annotated[str, typer.Option(help="PCMU, PCMA or G722")] = "PCMU",
    json: Annotated[bool, typer.Option("--json", help="end with one JSON line")] = False,
) -> None:
    """One call of our own: set-up time, delay, loss and MOS."""
    from gateway.caller.command import run_call

    try:
        status = run_call(uri, play, record, seconds, wait, codec, json)
    except (ValueError, OSError) as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(status)


@app.command()
def probe(
    uri: Annotated[
        str, typer.Argument(help="one that echoes, such as sip:HOST:5060; nothing is the gateway of run_dir")
    ] = "",
    codec: Annotated[str, typer.Option(help="PCMU, PCMA or G722")] = "PCMU",
    run_dir: RunDir = None,
    json: Annotated[bool, typer.Option("--json", help="end with one JSON line")] = False,
) -> None:
    """A probe call: real speech there and back, its PESQ score, delay and loss. Exit status 1 without a score."""
    from gateway.probe.command import run_probe

    now = _settings(run_dir=run_dir)
    raise typer.Exit(run_probe(uri, now.run_dir, codec, as_json=json, realtime=now.realtime))


@app.command()
def token(
    name: Annotated[str, typer.Option(help="who will call with it")],
    minutes: Annotated[int, typer.Option(min=1, max=527_040, help="how long it is good")] = 60,
    tenant: Annotated[str, typer.Option(help="whose calls they are, by the setting tenants")] = "",
    scope: Annotated[
        str,
        typer.Option(help="what it allows: call (browser calls), or of /v1 such as 'calls:read cdrs:read'"),
    ] = "call",
) -> None:
    """A bearer token for browser calls or for programs, signed with jwt_secret."""
    from gateway.api.tokens import SCOPE, mint
    from gateway.api.v1.operations import SCOPES

    settings = _settings()
    secret = settings.jwt_secret.get_secret_value()
    if tenant and tenant not in settings.tenants:
        typer.echo(f"microturn: {tenant!r} is not among the tenants: {', '.join(settings.tenants)}", err=True)
        raise typer.Exit(2)
    if not secret:
        typer.echo(
            "microturn: jwt_secret is not set, so that calls on this machine need no token: "
            "set MICROTURN_JWT_SECRET, for the gateway too",
            err=True,
        )
        raise typer.Exit(2)
    unknown = set(scope.split()) - {SCOPE, *SCOPES}
    if unknown or not scope.split():
        typer.echo(f"microturn: scope = {scope!r}: expected some of {SCOPE}, {', '.join(SCOPES)}", err=True)
        raise typer.Exit(2)
    typer.echo(mint(secret, name, 60 * minutes, " ".join(scope.split()), tenant))


@app.command()
def forget(
    caller: Annotated[
        str, typer.Argument(help="number, SIP address or name in the token; or the name of a call")
    ],
    redis: Redis = None,
) -> None:
    """Delete what is kept of one caller: transcripts, tasks and sessions of all calls; only CDRs stay."""
    settings = _settings(redis=redis)
    from gateway.state.forget import forget_caller

    try:
        done = forget_caller(settings, caller)
    except (ValueError, OSError) as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    told = f"calls forgotten: {done.forgotten}; calls that live, forgotten when they end: {done.live}"
    typer.echo(f"{told}; recordings deleted here: {done.recordings}")
    typer.echo(
        "gateways take who called and what was said out of the events that wait for webhooks, within seconds"
    )
    raise typer.Exit(0 if done.forgotten + done.live + done.recordings else 1)


@recordings.command("decrypt")
def recordings_decrypt(
    file: Annotated[Path, typer.Argument(help="a recording: .mtr, or .part of a call that lives")],
    out: Annotated[Path | None, typer.Option(help="by itself beside it, without its ending")] = None,
) -> None:
    """A recording as WAV or Ogg, with recording_key or recording_kms_command."""
    from gateway.recording.finish import decrypt, plain_name

    now = _settings()
    try:
        out = out or file.with_name(plain_name(file.name))
        header = decrypt(file, out, now.keyring)
    except (ValueError, OSError) as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{out}: call {header.call}, {header.rate_hz} Hz, left the caller, right the model")


@recordings.command("keep")
def recordings_keep(kept: Kept = False) -> None:
    """Finish, upload and delete recordings, as the gateway's own process does it."""
    settings = _settings()
    setproctitle("microturn: recordings")
    if kept:
        heed_keeper(signal.SIGTERM)
    from gateway.recording.process import run

    _run("recordings", settings, lambda: run(settings))


@policy.command("check")
def policy_check(
    file: Annotated[Path | None, typer.Argument(help="YAML file; by itself that of safety_policy")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="what the model says; several are pieces, turn after turn")
    ] = None,
    persona: Annotated[str, typer.Option(help="of the call")] = "",
    tenant: Annotated[str, typer.Option(help="of the call")] = "",
) -> None:
    """Whether the file is a policy, and what a text would meet. Exit status 1 when it would not be heard whole."""
    from gateway.safety.policy_file import read_policy
    from gateway.safety.watch import Watch

    now = _settings()
    if file is None and not now.safety_policy:
        typer.echo("microturn: give a FILE, or set safety_policy", err=True)
        raise typer.Exit(2)
    try:
        found = read_policy(file or Path(now.safety_policy))
    except ValueError as wrong:
        typer.echo(f"microturn: {wrong}", err=True)
        raise typer.Exit(2) from None
    rules = [rule for rule in found.rules if rule.is_for(persona or now.persona, tenant)]
    typer.echo(
        f"{len(found.rules)} rules, {len(rules)} of them for this call; lookahead: {found.lookahead} turns"
    )
    watch = Watch(rules, patient=found.lookahead > 0)
    met = [(turn, each) for turn, piece in enumerate((*(text or ()), "")) for each in watch.hear(turn, piece)]
    for turn, each in met:
        typer.echo(
            f"turn {turn}: rule {each.rule.name}: {each.rule.do} (its words begin in turn {each.since})"
        )
    if text and not met:
        typer.echo("no rule is met")
    raise typer.Exit(1 if any(each.rule.do != "report" for _, each in met) else 0)


@app.command()
def doctor() -> None:
    """What is wrong on this machine, and what to do about it."""
    from gateway.doctor import examine

    findings = examine(_settings())
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.good else 'LOOK'}  {finding.what}: {finding.found}")
        if not finding.good:
            typer.echo(f"      {finding.advice}")
    raise typer.Exit(0 if all(f.good or not f.fatal for f in findings) else 1)


@app.command()
def settings() -> None:
    """Every setting of the gateway, with its value now."""
    now = _settings()
    for name, field in GatewaySettings.model_fields.items():
        typer.echo(f"{name} = {getattr(now, name)!s:24} {field.description or ''}")


@app.command()
def route(
    called: Annotated[str, typer.Argument(help="number or name that is called; nothing is none")] = "",
    source: Annotated[str, typer.Option(help="address that the INVITE comes from")] = "127.0.0.1",
    header: Annotated[
        list[str] | None, typer.Option(help="of the INVITE, such as 'X-Campaign: spring'")
    ] = None,
    browser: Annotated[bool, typer.Option(help="a browser calls, not a telephone")] = False,
    attestation: Annotated[str, typer.Option(help="of the caller: A, B, C, failed or absent")] = "",
) -> None:
    """Which rule a call would fall under. Exit status 1 when it would be refused."""
    now = _settings()
    trunk = now.make_parties().of_telephone(source, "").trunk
    headers: dict[str, list[str]] = {}
    for line in header or ():
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    rules = now.make_rules()
    inbound = Inbound(called, source, trunk, headers, attestation)
    found = rules.find_for_browser(called) if browser else rules.find(inbound)
    if found is None:
        typer.echo("refused (404): no rule matches; see the settings rules, personas and calls_without_rule")
        raise typer.Exit(1)
    tenant = found.tenant or (now.trunks[trunk].tenant if trunk in now.trunks else "")
    told = {
        "rule": found.rule,
        "persona": found.persona or (now.persona if not found.engine else "") or "(the usual one)",
        **({"engine": found.engine or "(the usual one)"} if now.engines else {}), "tenant": tenant or "-",
        "trunk": found.trunk or trunk or "-", "recording": "allowed" if found.recording else "not allowed",
    }  # fmt: skip
    typer.echo("  ".join(f"{name}: {value}" for name, value in told.items()))


def main() -> None:
    """Entry point of the command."""
    app()
