"""The recipes for containers: what they name exists, what they run works, and their times fit.

Without anything that builds images: the lines of the Dockerfile and of the manifests are read, and
the commands in them are run here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest
import yaml
from jsonargparse import Namespace
from real_server import RealServer
from spoiled_server import HELD_S, Device

from anytime_ar.cli.main import COMMANDS
from anytime_ar.cli.parser import Parser, read_config
from anytime_ar.serving.config import ServerConfig
from anytime_ar.serving.engine.worker import STALL_TIMEOUT_S
from anytime_ar.serving.http.middleware import AllowedHosts
from processes import PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent.parent
KEY = "s3cret"
SHOULD_BE_READY_S = 60


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions and what they say, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def said(instruction: str) -> str:
    """What the image's last instruction of a kind says."""
    return [what for name, what in dockerfile() if name == instruction][-1]


def manifest(kind: str) -> dict[str, Any]:
    """The object of that kind."""
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
    (found,) = (one for one in yaml.safe_load_all(text) if one["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return only


def entrypoint() -> list[str]:
    words: list[str] = json.loads(said("ENTRYPOINT"))
    return words


def parsed(arguments: list[str]) -> tuple[Namespace, ServerConfig]:
    """What the command makes of arguments after the entry point."""
    name, *given = entrypoint()[1:] + arguments
    parser = Parser(prog=name)
    import_module(f"anytime_ar.cli.{name}").add_arguments(parser)
    options = parser.parse_args(parser.normalize_arguments(given))
    return options, read_config(ServerConfig, options)


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last line that fits it, or a folder
    above it, says."""
    found = False
    parts = PurePosixPath(path).parts
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            assert "/" not in pattern, f"{pattern}: not known here"
            fits = fnmatch(above[0], pattern)
        if fits:
            found = not line.startswith("!")
    return found


def test_the_image_starts_a_command_with_options_that_it_has() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    assert entrypoint()[0] in scripts
    assert entrypoint()[1] in COMMANDS
    options, config = parsed(json.loads(said("CMD")))
    assert options.models == ["mnist"]
    assert config.host == "0.0.0.0"


def test_pods_start_a_command_with_options_that_it_has() -> None:
    assert "command" not in container()  # which would be in place of the image's entry point
    assert all(isinstance(argument, str) for argument in container()["args"])
    options, config = parsed(container()["args"])
    assert config.host == "0.0.0.0"
    for kind in ("requests", "limits"):  # one core is left for HTTP
        assert int(container()["resources"][kind]["cpu"]) == options.threads + 1


def test_all_speak_of_one_port() -> None:
    port = ServerConfig().port
    assert said("EXPOSE") == str(port)
    assert f", {port}, " in said("HEALTHCHECK")
    assert container()["ports"] == [{"name": "http", "containerPort": port}]
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == "http"
    probes = [container()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness")]
    probes.append(container()["livenessProbe"]["httpGet"])
    assert {probe["port"] for probe in probes} == {"http"}
    notes = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(port)


def test_whoever_has_to_be_answered_is() -> None:
    """Probes and clients call a container by addresses; a pod's clients also by names."""
    _, config = parsed(json.loads(said("CMD")))
    image = AllowedHosts.for_server(config.host, config.allowed_host_names)
    _, config = parsed(container()["args"])
    pods = AllowedHosts.for_server(config.host, config.allowed_host_names)
    for host in ("127.0.0.1:8000", "localhost:8080", "10.42.0.7:8000", "[fd00::7]:8000"):
        assert image.allows(host)
        assert pods.allows(host)
    assert pods.allows("anytime.default.svc.cluster.local")
    assert config.allowed_host_names == ["*"]
    assert "--api-key-file" in " ".join(container()["args"])  # which makes that safe
    assert not image.allows("evil.example")


def test_times_fit_each_other() -> None:
    _, config = parsed(container()["args"])
    told = said("STOPSIGNAL")
    assert told == "SIGTERM"
    ends_s = container()["lifecycle"]["preStop"]["sleep"]["seconds"] + 1.2 * config.grace_s
    assert ends_s + STALL_TIMEOUT_S < pod()["terminationGracePeriodSeconds"]
    affinity = manifest("Service")["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
    assert affinity > config.session_ttl_s
    startup = container()["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > SHOULD_BE_READY_S


def test_only_what_is_writable_is_written_to() -> None:
    cache = said("VOLUME")
    (environment,) = (what for name, what in dockerfile() if name == "ENV" and "HOME" in what)
    places = dict(pair.split("=") for pair in environment.split())
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        assert PurePosixPath(places[name]).is_relative_to(cache)
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert mounts["cache"]["mountPath"] == cache
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert "emptyDir" in volumes["cache"]
    assert set(mounts) == set(volumes)
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    options, _ = parsed(container()["args"])
    assert options.api_key_file.is_relative_to(mounts["keys"]["mountPath"])
    assert "secret" in volumes["keys"]


def test_nobody_is_root() -> None:
    user, group = said("USER").split(":")
    assert int(user) > 0
    context = pod()["securityContext"]
    assert context["runAsNonRoot"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert context["fsGroup"] == int(group)  # whom the emptyDir and the keys belong to


def test_labels_find_the_pods() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifest("Service")["spec"]["selector"].items() <= labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels


def test_the_image_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert container()["image"] == f"{project['name']}:{project['version']}"


def test_all_that_is_copied_is_there_and_nothing_else() -> None:
    sources = [
        source
        for name, what in dockerfile()
        if name == "COPY" and not what.startswith("--from")
        for source in what.split()[:-1]
    ]
    assert len(sources) > 4
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert not ignored("src/anytime_ar/kernel/prior_step.cpp")
    for path in ("src/anytime_ar/__pycache__/a.pyc", "src/anytime_ar.egg-info/PKG-INFO"):
        assert ignored(path), path
    for path in (".git/HEAD", ".venv/bin/python", "runs/a/bundle", "tests/conftest.py", "keys"):
        assert ignored(path), path


def healthcheck(url: str) -> int:
    """Exit code of the image's health check, asked of a server here."""
    _, _, command = said("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert python == "python"
    port = f", {httpx.URL(url).port}, "
    arguments = [argument.replace(f", {ServerConfig().port}, ", port) for argument in arguments]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        env={"http_proxy": "http://127.0.0.1:9"},  # not for one's own pulse
    )
    return done.returncode


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Steps of no time, and none that is held for too long."""
    return Device(tmp_path / "device", 0.0, stall_timeout_s=HELD_S)


@pytest.fixture
def as_in_a_pod(models: dict[str, Path], tmp_path: Path, device: Device) -> Iterator[RealServer]:
    """A server with the arguments of a pod, but for where it listens and where its keys are."""
    keys = tmp_path / "keys"
    keys.write_text(f"ada {KEY}\n", encoding="utf-8")
    model, *options = container()["args"]
    assert model == "mnist"
    place = options[options.index("--api-key-file") + 1]
    options = [{"0.0.0.0": "127.0.0.1", place: str(keys)}.get(one, one) for one in options]
    real = RealServer(
        str(models["image"]), options=tuple(options), logs=tmp_path / "log", device=device
    )
    yield real
    real.process.kill()
    real.terminate()


def test_probes_answer_without_a_key_and_tell_the_end(
    as_in_a_pod: RealServer, device: Device
) -> None:
    """Alive all the time; ready from the first request on that is taken, until SIGTERM."""
    real = as_in_a_pod
    alive, ready = (
        container()[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")
    )
    assert container()["startupProbe"]["httpGet"]["path"] == ready
    with real.client() as probe:
        assert probe.get(alive).status_code == 200
        assert probe.get(ready).status_code in (200, 503)
        real.ready()
        assert probe.get(ready).status_code == 200
        assert healthcheck(real.url) == 0

        def draw() -> httpx.Response:
            with real.client(Authorization=f"Bearer {KEY}") as client:
                return client.post("/v1/samples", json={"n": 2})

        with ThreadPoolExecutor(1) as pool:
            device.set(HELD_S)
            drawing = pool.submit(draw)
            wait_for(lambda: running(real) > 0, "a draw")
            real.process.terminate()
            wait_for(lambda: probe.get(ready).status_code == 503, "the end")
            assert probe.get(alive).status_code == 200
            device.set(0.0)
            assert drawing.result().status_code == 200
    assert real.process.wait(PATIENCE_S) == 0
    assert healthcheck(real.url) != 0


def running(real: RealServer) -> float:
    """Draws under way."""
    with real.client(Authorization=f"Bearer {KEY}") as client:
        text = client.get("/metrics").text
    found = re.search(r"^anytime_requests_running (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_figures_that_are_spoken_of_exist(server: RealServer) -> None:
    with server.client() as client:
        text = client.get("/metrics").text
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for where in ("deploy/kubernetes.yaml", "docs/how-to/containers.md"):
        named = set(re.findall(r"anytime_[a-z_]+", (ROOT / where).read_text(encoding="utf-8")))
        assert named
        assert named <= known


HANDLES = Path("/proc/self/status")
TERM_BIT = 1 << 14


@pytest.mark.skipif(not HANDLES.exists(), reason="only Linux tells which signals are handled")
def test_a_server_that_is_told_to_end_while_it_loads_ends_well() -> None:
    """The first process of a container would not even hear of a signal that it does not handle."""
    process = subprocess.Popen(
        [sys.executable, "-m", "anytime_ar", "serve", "mnist", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def handled() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        caught = re.search(r"^SigCgt:\s+(\S+)$", status, re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) & TERM_BIT)

    wait_for(handled, "SIGTERM to be handled")
    time.sleep(0.2)  # in the middle of imports
    process.terminate()
    assert process.communicate(timeout=PATIENCE_S) == ("", "")
    assert process.returncode == 0
