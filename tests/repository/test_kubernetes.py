"""The files for Kubernetes are what its own schemas say, and keep to what the documentation says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support.checkers.kustomize import files, objects

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.31"
NOT_KUBERNETES_OWN = {"Kustomization", "ServiceMonitor"}

OBJECTS: list[Any] = [pytest.param(found, id=file) for file, found in objects(FOLDER)]
WITH_PODS = [found for found in OBJECTS if "template" in found.values[0].get("spec", {})]


@pytest.mark.parametrize("loaded", OBJECTS)
def test_every_file_is_what_kubernetes_own_schema_says(loaded: dict[str, Any]) -> None:
    if loaded["kind"] not in NOT_KUBERNETES_OWN:
        kubernetes_validate.validate(loaded, VERSION, strict=True)


def test_no_file_is_left_out_here() -> None:
    held = {str(found.id) for found in OBJECTS}

    assert held == files(FOLDER)
    assert {"postgres/tls.yaml", "sqlite/tls.yaml"} < held


@pytest.mark.parametrize("folder", ["postgres", "sqlite"])
def test_what_a_folder_does_not_apply_is_named_as_a_patch_to_add(folder: str) -> None:
    text = (FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8")

    others = {file.name for file in (FOLDER / folder).iterdir()} - {"kustomization.yaml"}
    patches = others - set(yaml.safe_load(text)["resources"])
    assert all(f"#   - path: {name}" in text for name in patches)


@pytest.mark.parametrize("folder", ["postgres", "sqlite"])
def test_with_its_patch_a_server_asks_who_calls_and_is_probed_without_a_credential(folder: str) -> None:
    patched = {found.values[0]["kind"]: found.values[0] for found in OBJECTS if found.id == f"{folder}/tls.yaml"}
    service = patched.pop("Service")
    (workload,) = patched.values()
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "access"]

    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["RUNTIMESTORE_INSECURE"] == "false"
    assert container["image"]
    given = [environment[f"RUNTIMESTORE_{name}"] for name in ("TLS_CERT", "TLS_KEY", "ACCESS_FILE")]
    assert {str(Path(path or "").parent) for path in given} == {mount["mountPath"]}
    assert "subPath" not in mount  # of which a change would never be seen
    assert {"access", "tmp"} <= {volume["name"] for volume in pod["volumes"]}
    assert [port.get("appProtocol") for port in service["spec"]["ports"]] == ["https", None]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "grpc" not in container[probe]
        assert container[probe]["httpGet"]["port"] == "metrics"


@pytest.mark.parametrize("loaded", WITH_PODS)
def test_every_pod_has_no_more_rights_than_it_needs_and_its_limits(loaded: dict[str, Any]) -> None:
    pod = loaded["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("loaded", [found for found in WITH_PODS if "migration" not in str(found.id)])
def test_servers_are_probed_and_have_longer_to_end_than_their_grace_period(loaded: dict[str, Any]) -> None:
    pod = loaded["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert "grpc" in container["readinessProbe"] or "httpGet" in container["readinessProbe"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["terminationGracePeriodSeconds"] > 10
    assert loaded["kind"] != "StatefulSet" or loaded["spec"]["replicas"] == 1
