"""The chart renders what Kubernetes takes and what the programs accept: neither can drift away from the other."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from gateway.background.line import TaskLine
from gateway.config import GatewaySettings, load
from gateway.rules import Inbound
from gateway.state.address import parse as parse_address
from gateway.state.client import Login
from loadtests.chart.helm import NAME
from loadtests.chart.pod import ADDRESS6, environment
from media import slots
from model_server.config import ModelServerConfig
from model_server.config import load as load_model
from tests.support.helm import (
    CHART,
    NAMESPACE,
    RELEASE,
    VARIANTS,
    container,
    helm,
    needs_helm,
    one,
    pods,
    refusal,
    render,
    secrets_api,
    template,
)

pytestmark = needs_helm

KUBERNETES = "1.37"
FOREIGN = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1")
"""Of operators: Kubernetes' own schema does not know them."""
POD_IP = "10.1.2.3"
TAKEN: set[str] = set()
variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_lints_strictly(variant: str) -> None:
    done = helm("lint", "--strict", ".", *VARIANTS[variant])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout and "[ERROR]" not in done.stdout


@variants
def test_kubernetes_takes_what_is_rendered(variant: str) -> None:
    objects = render(*VARIANTS[variant])
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    for each in objects:
        if each["kind"] != "PriorityClass":
            assert each["metadata"]["namespace"] == NAMESPACE, each["metadata"]["name"]
        if each["apiVersion"] in FOREIGN:
            assert each["spec"]
        elif (text := json.dumps(each)) not in TAKEN:  # variants have much in common
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
            TAKEN.add(text)


def test_the_validation_can_fail() -> None:
    wrong = json.loads(json.dumps(one(render(), "StatefulSet", NAME)))
    wrong["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


# -- the programs accept it


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Secrets of type kubernetes.io/tls are mounted as."""
    folder = tmp_path_factory.mktemp("mounted")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout tls.key -out tls.crt"
    for name in ("http-tls", "sip-tls", "redis-tls"):
        (folder / name).mkdir()
        if name == "http-tls":
            subprocess.run(make.split(), cwd=folder / name, check=True, capture_output=True)
        else:
            for file in ("tls.key", "tls.crt"):
                (folder / name / file).write_bytes((folder / "http-tls" / file).read_bytes())
        (folder / name / "ca.crt").write_bytes((folder / name / "tls.crt").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"MICROTURN_{name.upper()}", raising=False)


def _loaded(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load()


def test_probe_calls_have_an_echo_of_their_own(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(
        "probe: {enabled: true, everySeconds: 120, codecs: [PCMA, G722]}\n"
        "gateway: {settings: {engines: {lab: {socket: /run/lab/model.sock}}}}\n"
    )
    objects = render("-f", str(file))
    settings = _loaded(environment(objects, "gateway", mounted), monkeypatch)
    assert (settings.probe_every_s, settings.probe_engine, settings.probe_codecs) == (
        120,
        "probe",
        ["PCMA", "G722"],
    )
    assert set(settings.engines) == {"probe", "lab"} and settings.probe_host == POD_IP
    echo = environment(objects, "model-probe", mounted)
    assert echo["MICROTURN_MODEL_SOCKET"] == settings.engines["probe"].socket
    for name, value in echo.items():
        monkeypatch.setenv(name, value)
    assert load_model().engine == "echo"
    assert container(objects, "model-probe")["resources"]["limits"] == {"memory": "256Mi"}, "no GPU"
    assert "model-probe" not in {each["name"] for each in dict(pods(render()))[NAME]["containers"]}
    told = refusal("--set", "probe.enabled=true,gateway.sip.srtp=required")
    assert "probe.enabled with gateway.sip.srtp = required" in told
    file.write_text("probe: {enabled: true}\ngateway: {settings: {engines: {probe: {engine: echo}}}}\n")
    assert "an engine probe with probe.enabled" in refusal("-f", str(file))
    assert "an engine probe" in refusal("--set", "probe.enabled=true,engines.probe.engine=echo")


def test_sound_over_ipv6_is_at_the_pods_own_address(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render("--set", "gateway.rtp.ipv6=true")
    given = environment(objects, "gateway", mounted)
    settings = _loaded(given, monkeypatch)
    assert settings.rtp_host6 == ADDRESS6 and settings.rtp_host == POD_IP
    monkeypatch.setenv("MICROTURN_RTP_HOST6", POD_IP)  # of a cluster without IPv6
    with pytest.raises(ValueError, match=f"'{POD_IP}' is no IPv6 address"):
        load()
    assert "MICROTURN_RTP_HOST6" not in environment(render(), "gateway", mounted)


@variants
def test_the_gateway_accepts_itsenvironment(
    variant: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(*VARIANTS[variant])
    settings = _loaded(environment(objects, "gateway", mounted), monkeypatch)
    assert settings.rtp_host == settings.webrtc_host == settings.sip_public_host == POD_IP
    assert settings.node_name == f"{NAME}-0"
    assert settings.node_url.endswith(f"://{POD_IP}:8080")
    assert settings.state_address is not None
    assert settings.make_guard_rules() and settings.make_rules()
    pod = dict(pods(objects))[NAME]
    assert pod["terminationGracePeriodSeconds"] > settings.drain_s + 10
    probes_s = 11 if any(each["metadata"]["name"] == f"{NAME}-edge" for each in objects) else 0
    assert settings.drain_least_s == probes_s, "two probes of the edge"
    assert one(objects, "StatefulSet", NAME)["spec"]["minReadySeconds"] == 35
    ports = {port["containerPort"] for port in container(objects, "gateway")["ports"]}
    assert {settings.http_port, settings.sip_port, settings.webrtc_udp_port} <= ports
    assert settings.webrtc_udp_port + settings.webrtc_workers - 1 in ports


def test_values_arrive(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(*VARIANTS["contact-centre"])
    settings = _loaded(environment(objects, "gateway", mounted), monkeypatch)
    assert (settings.sip_calls, settings.rtp_ports, settings.srtp) == (400, 4000, "optional")
    assert (settings.drain_s, settings.realtime, settings.video) == (1800, True, "off")
    assert settings.calls_without_rule == "refuse" and settings.sip_requests_per_s == 50
    [told] = [each for each in container(objects, "calls")["command"] if each.startswith("--sip=sip:")]
    called = told.removeprefix("--sip=sip:").partition("@")[0]
    assert settings.make_rules().find(Inbound(called, "192.0.2.1", headers={})), "helm test would be refused"
    assert settings.redis == "rediss://redis.example.net:6379/0" and settings.redis_tls_ca
    assert "10.0.0.0/8" in settings.sip_unlimited


def test_settings_of_every_kind_arrive(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        "persona": "count", "red": True, "price_minute": 0.015, "hold_timeout_s": 90, "recording_keep_days": 7,
        "web_origins": ["https://a.example.net", "https://b.example.net"], "personas": {"100": "interpret"},
        "trunks": {"carrier": {"hosts": ["203.0.113.0/24"], "calls": 30}},
        "rules": [{"headers": {"X-Edge-Source": "/203\\.0\\.113\\..*/"}, "trunk": "carrier"}],
    }  # fmt: skip
    given["red"] = "on"
    file = tmp_path / "more.yaml"
    file.write_text(yaml.safe_dump({"gateway": {"settings": given}}))
    objects = render("-f", str(file))
    settings = _loaded(environment(objects, "gateway", mounted), monkeypatch)
    assert (settings.persona, settings.red, settings.price_minute) == ("count", "on", 0.015)
    assert settings.hold_timeout_s == 90
    assert settings.web_origins == ("https://a.example.net", "https://b.example.net")
    assert settings.personas == {"100": "interpret"}
    assert settings.trunks["carrier"].calls == 30
    assert settings.rules[0].trunk == "carrier"


@variants
def test_the_worker_accepts_itsenvironment(
    variant: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _loaded(environment(render(*VARIANTS[variant]), "worker", mounted), monkeypatch)
    assert settings.state_address is not None
    assert settings.background_metrics_port == 9091 and settings.background_tasks == 8


@variants
def test_the_model_server_accepts_itsenvironment(
    variant: str, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(*VARIANTS[variant])
    for name, value in environment(objects, "model", mounted).items():
        monkeypatch.setenv(name, value)
    config = load_model()
    gateway = environment(objects, "gateway", mounted)
    assert config.socket == Path(gateway["MICROTURN_RUN_DIR"]) / "model.sock"
    assert config.engine == container(objects, "model")["args"][1]
    calls = int(gateway["MICROTURN_SIP_CALLS"]) + int(gateway["MICROTURN_WEBRTC_CALLS"])
    assert config.slots >= calls or config.engine == "sglang"  # sessions are what is dear there


def test_further_engines_are_containers_that_the_gateway_meets(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines = {
        "lab": {"engine": "echo", "slots": 8, "persona": "count", "settings": {"rows": 2}},
        "gpu": {"engine": "sglang", "gpu": {"count": 1}, "resources": {"limits": {"memory": "8Gi"}}},
    }
    rules = [{"called": name, "engine": name} for name in engines]
    model = {"persona": "every 5", "settings": {"passes": 2}, "groups": 2}
    file = tmp_path / "more.yaml"
    file.write_text(
        yaml.safe_dump({"engines": engines, "model": model, "gateway": {"settings": {"rules": rules}}})
    )
    objects = render("-f", str(file))
    settings = _loaded(environment(objects, "gateway", mounted), monkeypatch)
    assert settings.engine_personas == {"lab": "count", "gpu": ""}
    assert settings.make_rules().find(Inbound("lab", "192.0.2.1", headers={})).engine == "lab"
    sockets = settings.engine_sockets(settings.model_socket)
    found = {}
    for name in ("", "lab", "gpu"):
        which = f"model-{name}" if name else "model"
        with monkeypatch.context() as of_one:
            for key, value in environment(objects, which, mounted).items():
                of_one.setenv(key, value)
            config = load_model()
        assert config.socket == sockets[name]
        asked = container(objects, which)["startupProbe"]["exec"]["command"]
        assert asked[-1] == str(sockets[name])
        found[name] = (config.engine, config.slots, config.persona, config.groups, config.passes, config.rows)
    assert found["lab"] == ("echo", 8, "count", 2, ModelServerConfig().passes, 2), "groups as in model"
    assert found["gpu"][:5] == ("sglang", 64, "", 2, ModelServerConfig().passes)
    assert found[""][:5] == ("digits", 64, "every 5", 2, 2), "the usual one is as ever"
    limits = {n: container(objects, n)["resources"]["limits"] for n in ("model", "model-lab", "model-gpu")}
    assert [name for name, each in limits.items() if "nvidia.com/gpu" in each] == ["model-gpu"]
    pod = dict(pods(objects))[NAME]
    there = {each["name"] for each in pod["volumes"]}
    for each in pod["containers"]:
        assert {mount["name"] for mount in each["volumeMounts"]} <= there | {"state"}
    assert {"shm", "shm-lab", "shm-gpu"} <= there


def test_a_name_that_is_none_would_be_noticed(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render("--set", "gateway.settings.sip_prot=5060")
    with pytest.raises(ValueError, match="MICROTURN_SIP_PROT"):
        _loaded(environment(objects, "gateway", mounted), monkeypatch)


# -- memory


@pytest.mark.parametrize("rows", [1, 64, 512, 4096])
def test_shared_memory_has_room_for_the_slot_table(rows: int) -> None:
    objects = render("--set", f"model.slots={rows},model.resources.limits.memory=16Gi")
    [shm] = [each for each in dict(pods(objects))[NAME]["volumes"] if each["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory"
    size = re.fullmatch(r"(\d+)Mi", shm["emptyDir"]["sizeLimit"])
    assert size
    table = ModelServerConfig(slots=rows)
    _, needed = slots._plan(rows, table.rows, table.video, table.video_pixels)
    assert needed < (int(size[1]) - 64) * 2**20 < 1.1 * needed + 4 * 2**20


def test_a_limit_that_does_not_hold_the_slot_table_is_refused() -> None:
    told = refusal("--set", "model.slots=2048,model.resources.limits.memory=1Gi")
    assert "model.resources.limits.memory = 1Gi does not hold the slot table of model.slots = 2048" in told


# -- what does not fit together


def test_a_grace_period_below_the_drain_budget_is_refused() -> None:
    told = refusal("--set", "drain.seconds=300,drain.preStopSeconds=5,drain.gracePeriodSeconds=315")
    assert (
        "drain.gracePeriodSeconds = 315 is not above drain.preStopSeconds + drain.seconds + 10 = 315" in told
    )
    assert "Give drain.gracePeriodSeconds = 316 or more, or a lower drain.seconds (300)" in told
    objects = render("--set", "drain.seconds=300,drain.preStopSeconds=5,drain.gracePeriodSeconds=316")
    assert dict(pods(objects))[NAME]["terminationGracePeriodSeconds"] == 316


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            "gateway.rtp.port=65000,gateway.rtp.ports=1000",
            "gateway.rtp.port = 65000 + gateway.rtp.ports = 1000",
        ),
        (
            "gateway.sip.calls=200",
            "gateway.rtp.ports = 400 are too few for gateway.sip.calls = 200: give 800",
        ),
        ("gateway.sip.tls.port=5061", "without gateway.sip.tls.existingSecret"),
        ("edge.enabled=true,edge.tls.enabled=true", "edge.tls.enabled without edge.tls.existingSecret"),
        ("media.mode=turn", "media.mode = turn without a TURN server"),
        ("coturn.enabled=true", "coturn.enabled without coturn.host"),
        ("coturn.enabled=true,coturn.host=t,coturn.tls.enabled=true", "without coturn.tls.existingSecret"),
        ("turn.urls[0]=turn:t.example.net:3478", "turn.urls without turn.existingSecret"),
        ("redis.url=redis://r:6379", "redis.url = redis://r:6379 with redis.enabled"),
        ("redis.tls.enabled=true", "redis.tls.enabled without redis.tls.existingSecret"),
        ("redis.enabled=false,redis.url=redis://r:6379,redis.tls.existingSecret=c", "give rediss://"),
        ("redis.enabled=false", "worker.enabled without a Redis"),
        ("redis.enabled=false,worker.enabled=false,replicas=2", "several gateways without a Redis"),
        ("worker.url=http://b/v1", "worker.url = http://b/v1 without worker.model"),
        (
            "redis.enabled=false,redis.url=redis://r:6379,worker.keda.enabled=true",
            "needs worker.keda.address",
        ),
        ("autoscaling.enabled=true,autoscaling.minReplicas=11", "autoscaling.minReplicas = 11 is more than"),
        ("autoscaling.enabled=true,autoscaling.kind=keda", "without autoscaling.prometheusAddress"),
        ("model.gpu.count=1", "model.gpu.count = 1 with model.engine = digits, which runs on a CPU"),
        (
            "engines.lab.engine=echo,engines.lab.gpu.count=1",
            "engines.lab.gpu.count = 1 with engines.lab.engine = echo, which runs on a CPU",
        ),
        (
            "engines.lab.engine=echo,engines.lab.slots=4096",
            "engines.lab.resources.limits.memory = 2Gi does not hold the slot table of engines.lab.slots = 4096",
        ),
        ("engines.lab.engine=echo,gateway.settings.engines=x", "engines with gateway.settings.engines"),
        ("ingress.enabled=true", "ingress.enabled without ingress.host"),
        ("priorityClass.create=true", "priorityClass.create without priorityClass.name"),
    ],
)
def test_values_that_do_not_fit_together_are_refused_in_words(wrong: str, told: str) -> None:
    assert told in refusal("--set", wrong)


# -- pods


@variants
def test_no_container_has_more_rights_than_it_needs(variant: str) -> None:
    objects = render(*VARIANTS[variant])
    realtime = variant.startswith(("contact-centre", "everything"))
    for name, pod in pods(objects):
        assert pod["enableServiceLinks"] is False, name  # MICROTURN_PORT=tcp://... would stop the start
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
        assert not [each for each in pod.get("volumes", ()) if "hostPath" in each]
        for each in pod["containers"]:
            rights = each["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert not rights.get("privileged")
            may_more = each["name"] == "gateway" and realtime
            added = {"gateway": ["SYS_NICE"] if may_more else [], "turn": ["NET_BIND_SERVICE"]}
            assert rights["capabilities"].get("add", []) == added.get(each["name"], [])
            assert rights["allowPrivilegeEscalation"] is may_more
            assert "memory" in each["resources"]["limits"] and "cpu" not in each["resources"]["limits"]
            assert {"cpu", "memory"} <= set(each["resources"]["requests"])
            writable = [m["mountPath"] for m in each["volumeMounts"] if not m.get("readOnly")]
            assert "/tmp" in writable or each["name"] == "redis"


def test_probes_are_told_apart() -> None:
    objects = render()
    gateway, model = container(objects, "gateway"), container(objects, "model")
    paths = {
        kind: gateway[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
    for each in (gateway, model):
        alive, starting = each["livenessProbe"], each["startupProbe"]
        assert starting["failureThreshold"] * starting["periodSeconds"] >= 60
        assert alive["failureThreshold"] * alive["periodSeconds"] >= 30
    assert model["startupProbe"]["failureThreshold"] * model["startupProbe"]["periodSeconds"] >= 300


@variants
def test_the_model_server_outlives_its_gateway(variant: str) -> None:
    objects = render(*VARIANTS[variant])
    pod = dict(pods(objects))[NAME]
    stays = container(objects, "model")["lifecycle"]["preStop"]["exec"]["command"]
    assert stays[2:4] == ["gone", "8080"]
    gateway = {each["name"]: each for each in container(objects, "gateway")["env"]}
    drains = int(gateway["MICROTURN_DRAIN_S"]["value"])
    assert drains + 10 <= int(stays[4]) < pod["terminationGracePeriodSeconds"]


def test_realtime_starts_the_interpreter_that_may_take_it() -> None:
    assert container(render(), "gateway")["args"] == ["microturn", "gateway"]
    told = container(render("--set", "gateway.realtime=true"), "gateway")["args"]
    assert told == ["/opt/microturn/bin/python-realtime", "-m", "gateway", "gateway"]
    assert told[0] in (CHART.parents[1] / "docker" / "gateway.Dockerfile").read_text()


def test_helm_test_calls_whom_rules_take() -> None:
    told = container(render("--set", "tests.called=bot,tests.seconds=2"), "calls")["command"]
    assert f"--sip=sip:bot@{NAME}:5060" in told and f"--whip=http://{NAME}:8080/whip?to=bot" in told
    assert f"--sip=sip:{NAME}:5060" in container(render(), "calls")["command"]
    assert (
        f"--sip=sip:{NAME}-edge:5060" in container(render("--set", "edge.enabled=true"), "calls")["command"]
    )


def test_a_gpu_is_asked_for() -> None:
    resources = container(render(*VARIANTS["browser-gpu"]), "model")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert resources["limits"]["memory"] == "48Gi"
    assert "nvidia.com/gpu" not in container(render(), "model")["resources"]["limits"]


def test_media_on_the_nodes_own_addresses() -> None:
    objects = render(*VARIANTS["contact-centre"])
    pod = dict(pods(objects))[NAME]
    assert pod["hostNetwork"] is True and pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert pod["nodeSelector"] == {"microturn/media": "true"}
    assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert "hostNetwork" not in dict(pods(render()))[NAME]
    assert dict(pods(objects))[NAME]["priorityClassName"] == "microturn-media"
    keys = [each["topologyKey"] for each in pod["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_rtp_is_let_in() -> None:
    policy = one(render(), "NetworkPolicy", NAME)
    ranges = [(p["port"], p.get("endPort")) for rule in policy["spec"]["ingress"] for p in rule["ports"]]
    assert (20000, 20399) in ranges and (7600, 7600) in ranges


# -- Secrets


def test_no_secret_is_in_the_values_or_in_what_is_said() -> None:
    values = (CHART / "values.yaml").read_text()
    assert not re.search(r"(?i)(password|secret|key): *[\"']?[A-Za-z0-9+/]{12,}", values)
    objects = render()
    made = one(objects, "Secret", NAME)["data"]
    assert set(made) == {"jwt-secret", "caller-secret", "redis-password"}
    everything_else = "\n".join(yaml.safe_dump(each) for each in objects if each["kind"] != "Secret")
    for value in made.values():
        assert value not in everything_else
        assert base64.b64decode(value).decode() not in everything_else
    assert len(set(made.values())) == 3
    again = [each for each in yaml.safe_load_all(template().stdout) if each and each["kind"] == "Secret"]
    assert again[0]["data"] != made  # drawn, not written down


def test_secrets_that_are_there_stay_as_they_are() -> None:
    old = {"jwt-secret": "b2xk", "somebody-elses": "a2VlcA=="}
    with secrets_api({NAME: old}) as url:
        done = template("--dry-run=server", "--kube-apiserver", url, "-s", "templates/secret.yaml")
    assert done.returncode == 0, done.stderr
    data = yaml.safe_load(done.stdout)["data"]
    assert {name: data[name] for name in old} == old
    assert set(data) - set(old) == {"caller-secret", "redis-password"}, "what is new is made"
    assert yaml.safe_load(done.stdout)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_nothing_is_made_where_secrets_are_named() -> None:
    objects = render(*VARIANTS["contact-centre"])
    assert not [each for each in objects if each["kind"] == "Secret"]
    named = {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for _, pod in pods(objects)
        for each in pod["containers"]
        for entry in each.get("env", ())
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert named == {"microturn-secrets", "microturn-redis", "microturn-background"}


@variants
def test_the_notes_say_where_to_call_and_no_secret(variant: str, tmp_path: Path) -> None:
    """helm shows notes only to who has a cluster: here they are a template of their own."""
    chart = tmp_path / "chart"
    subprocess.run(["cp", "-r", str(CHART), str(chart)], check=True)
    notes = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + notes + "{{ end }}")
    (chart / "templates" / "notes.yaml").write_text(
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {said: {{ include "notes" . | quote }}}\n'
    )
    arguments = [str(CHART / each) if each.endswith(".yaml") else each for each in VARIANTS[variant]]
    done = template(*arguments, chart=str(chart))
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    [said] = [each["data"]["said"] for each in objects if each["metadata"]["name"] == "notes"]
    assert f"helm test {RELEASE}" in said and "sip:" in said
    assert ("sound over IPv6 needs pods with an IPv6 address" in said) == (variant == "everything")
    for secret in (each for each in objects if each["kind"] == "Secret"):
        for value in secret["data"].values():
            assert value not in said and base64.b64decode(value).decode() not in said


# -- what goes by names of the programs


def test_workers_are_scaled_by_the_stream_that_they_read() -> None:
    line = TaskLine(parse_address("redis://h:1/0"), Login(), "microturn", "x")
    scaled = one(render(*VARIANTS["everything"]), "ScaledObject", f"{NAME}-worker")
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["stream"] == line._queue
    assert trigger["metadata"]["streamLength"] == "8"
    assert trigger["metadata"]["address"] == f"{NAME}-redis.{NAMESPACE}.svc.cluster.local:6379"
    assert trigger["metadata"]["enableTLS"] == "true"


def test_gateways_are_scaled_by_what_is_predicted_never_by_cpu() -> None:
    scaler = one(render(*VARIANTS["contact-centre"]), "HorizontalPodAutoscaler", NAME)["spec"]
    [metric] = scaler["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"]["name"] == "microturn_predicted_load"
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert "replicas" not in one(render(*VARIANTS["contact-centre"]), "StatefulSet", NAME)["spec"]
    rule = one(render(*VARIANTS["contact-centre"]), "PrometheusRule", NAME)
    rules = {each.get("record"): each["expr"] for group in rule["spec"]["groups"] for each in group["rules"]}
    load = rules[metric["pods"]["metric"]["name"]]
    assert "microturn_predicted_free_calls" in load, "what admission itself predicts"


@pytest.mark.parametrize(
    ("arguments", "gateways"),
    [(("--set", "edge.enabled=true,replicas=3"), 3), (VARIANTS["contact-centre"], 12)],
)
def test_the_edge_knows_every_gateway_that_there_may_be(arguments: tuple[str, ...], gateways: int) -> None:
    objects = render(*arguments)
    lines = one(objects, "ConfigMap", f"{NAME}-edge")["data"]["dispatcher.list"].splitlines()
    targets = [line.split()[1] for line in lines if not line.startswith("#")]
    assert targets == [
        f"sip:{NAME}-{number}.{NAME}-nodes.{NAMESPACE}.svc.cluster.local:5060" for number in range(gateways)
    ]
    nodes = one(objects, "Service", f"{NAME}-nodes")["spec"]
    assert nodes["clusterIP"] == "None" and nodes["publishNotReadyAddresses"] is True
    assert one(objects, "StatefulSet", NAME)["spec"]["serviceName"] == f"{NAME}-nodes"


@variants
def test_services_and_budgets_find_their_pods(variant: str) -> None:
    objects = render(*VARIANTS[variant])
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        if "template" in each["spec"]
        else each["metadata"]["labels"]
        for each in objects
        if each["kind"] in ("StatefulSet", "Deployment", "Pod")
    ]
    for each in objects:
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
        }.get(each["kind"])
        if selector is not None:
            wanted = selector(each["spec"]).items()
            assert [found for found in labels if wanted <= found.items()], each["metadata"]["name"]


def test_the_edge_reaches_gateways_where_others_are_kept_out() -> None:
    given = "edge.enabled=true,edge.networks={10.0.0.0/8},networkPolicy.ingressFrom[0].podSelector.matchLabels.a=b"
    http, sip, media = one(render("--set", given), "NetworkPolicy", NAME)["spec"]["ingress"]
    assert [each["port"] for each in http["ports"]] == [8080] and {p["port"] for p in sip["ports"]} == {5060}
    assert {"ipBlock": {"cidr": "10.0.0.0/8"}} in sip["from"]
    assert {"ipBlock": {"cidr": "10.0.0.0/8"}} not in http["from"]
    for rule in (http, sip):
        assert {"podSelector": {"matchLabels": {"a": "b"}}} in rule["from"]
    assert "from" not in media
    assert all("from" not in rule for rule in one(render(), "NetworkPolicy", NAME)["spec"]["ingress"])


def test_no_registry_is_named() -> None:
    for arguments in VARIANTS.values():
        for _, pod in pods(render(*arguments)):
            for each in pod["containers"]:
                first = each["image"].split("/")[0]
                assert "." not in first.split(":")[0] or "/" not in each["image"], each["image"]
                assert re.search(r":[\w.-]+$|@sha256:", each["image"]) and not each["image"].endswith(
                    ":latest"
                )
    digest = "sha256:" + 64 * "a"
    assert container(render("--set", f"model.image.digest={digest}"), "model")["image"].endswith(f"@{digest}")
