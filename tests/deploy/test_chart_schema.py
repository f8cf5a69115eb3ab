"""Wrong values are refused before anything is rendered, with a message that names the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from deploy.helm import values_table
from tests.support.helm import CHART, VARIANTS, container, needs_helm, refusal, render

pytestmark = needs_helm

WRONG = [
    ("replicas=0", "replicas"),
    ("replicas=many", "replicas"),
    ("replica=2", "replica"),
    ("logLevel=loud", "logLevel"),
    ("gateway.sip.port=70000", "gateway.sip.port"),
    ("gateway.sip.port=80", "gateway.sip.port"),
    ("gateway.sip.prot=5060", "prot"),
    ("gateway.sip.srtp=maybe", "gateway.sip.srtp"),
    ("gateway.sip.tls.port=443", "gateway.sip.tls.port"),
    ("gateway.rtp.ports=4", "gateway.rtp.ports"),
    ("gateway.webrtc.publicHost=gateway.example.net", "gateway.webrtc.publicHost"),
    ("gateway.webrtc.video=perhaps", "gateway.webrtc.video"),
    ("gateway.image.digest=sha256:abc", "gateway.image.digest"),
    ("gateway.image.pullPolicy=Sometimes", "gateway.image.pullPolicy"),
    ("gateway.realtime=yes-please", "gateway.realtime"),
    ("gateway.settings.sip_port=5070", "gateway.settings"),
    ("gateway.settings.SipPort=5070", "SipPort"),
    ("gateway.storage.size=ten", "gateway.storage.size"),
    ("model.engine=magic", "model.engine"),
    ("model.slots=5000", "model.slots"),
    ("model.groups=11", "model.groups"),
    ("model.gpu.count=-1", "model.gpu.count"),
    ("model.shmSize=1GB", "model.shmSize"),
    ("media.mode=nat", "media.mode"),
    ("drain.seconds=-5", "drain.seconds"),
    ("drain.gracePeriodSeconds=soon", "drain.gracePeriodSeconds"),
    ("auth.jwtSecret=abc", "jwtSecret"),
    ("turn.urls[0]=turn.example.net", "turn.urls.0"),
    ("turn.ttlSeconds=5", "turn.ttlSeconds"),
    ("redis.url=http://redis:6379", "redis.url"),
    ("redis.url=redis://user:word@redis:6379", "redis.url"),
    ("redis.password=abc", "password"),
    ("redis.maxMemory=1Gi", "redis.maxMemory"),
    ("worker.url=background:30000", "worker.url"),
    ("worker.keda.address=redis", "worker.keda.address"),
    ("autoscaling.kind=cpu", "autoscaling.kind"),
    ("autoscaling.target=70%", "autoscaling.target"),
    ("edge.serviceType=External", "edge.serviceType"),
    ("edge.carriers[0]=carrier.example.net", "edge.carriers.0"),
    ("edge.scanners[0]=*", "edge.scanners.0"),
    ("coturn.allowedPeers[0]=10.0.0.0/8", "coturn.allowedPeers.0"),
    ("podDisruptionBudget.maxUnavailable=half", "podDisruptionBudget.maxUnavailable"),
    ("priorityClass.value=2000000000", "priorityClass.value"),
    ("tests.seconds=0", "tests.seconds"),
    ("engines.lab.engine=moshi", "engines.lab.engine"),
    ("engines.lab.slots=8", "engines.lab"),
    ("engines.lab.engine=echo,engines.lab.socket=/x", "engines.lab"),
    ("engines.Lab.engine=echo", "engines"),
    ("engines.lab.engine=echo,engines.lab.slots=0", "engines.lab.slots"),
    ("gateway.rtp.ipv6=maybe", "gateway.rtp.ipv6"),
    ("gateway.settings.rtp_host6=fd00::1", "gateway.settings"),
    ("probe.everySeconds=5", "probe.everySeconds"),
    ("probe.codecs[0]=opus", "probe.codecs.0"),
]


@pytest.mark.parametrize(("wrong", "key"), WRONG, ids=[wrong for wrong, _ in WRONG])
def test_a_wrong_value_is_refused_by_its_key(wrong: str, key: str) -> None:
    told = refusal("--set", wrong)
    assert "don't meet the specifications of the schema" in told
    lines = [line for line in told.splitlines() if line.startswith("- ")]
    assert len(lines) <= 3
    assert any(key in line for line in lines), told


def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return found


def test_values_schema_and_readme_have_the_same_keys() -> None:
    def keys(schema: dict[str, Any], values: Any, at: str = "") -> None:
        properties = schema.get("properties")
        if properties is None:
            return
        assert schema["additionalProperties"] is False, at
        if at.endswith(("resources", ".requests")):
            return
        assert set(values) == set(properties) - {"global"}, at
        for name, below in properties.items():
            if name != "global":
                keys(below, values[name], f"{at}.{name}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    keys(_schema(), values)
    rows = list(values_table.rows((CHART / "values.yaml").read_text()))
    for row in rows:
        found = values
        for part in row.key.split("."):
            found = found[part]
        assert found == yaml.safe_load(row.default), row.key
        assert row.told, f"{row.key} has no remark in values.yaml"
    assert len({row.key for row in rows}) == len(rows) > 150


def test_the_readme_has_the_table_of_values() -> None:
    told = "deploy/helm/microturn/README.md is not of this values.yaml: python deploy/helm/values_table.py"
    assert values_table.main(["--check"]) == 0, told


@pytest.mark.parametrize("part", ["gateway", "worker", "model"])
def test_what_the_chart_sets_itself_is_no_free_setting(part: str) -> None:
    """Else a container would have a name twice, and nobody knew which of them holds."""
    prefix = "MICROTURN_MODEL_" if part == "model" else "MICROTURN_"
    taken = _schema()["properties"][part]["properties"]["settings"]["propertyNames"]["not"]["enum"]
    for arguments in VARIANTS.values():
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        for file in (argument for argument in arguments if argument.endswith(".yaml")):
            values[part] |= yaml.safe_load((CHART / file).read_text()).get(part, {})
        free = {prefix + name.upper() for name in values[part]["settings"]}
        names = [each["name"] for each in container(render(*arguments), part)["env"]]
        assert len(names) == len(set(names))
        mine = {name for name in names if name.startswith("MICROTURN_")} - free
        own = {prefix + name.upper() for name in taken} | {"MICROTURN_SIP_UNLIMITED", "MICROTURN_ENGINES"}
        assert mine <= own, "values.schema.json does not have them among what is taken"
