"""The files for Kubernetes are what its own schemas say, and keep to what the documentation says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.31"
NOT_KUBERNETES_OWN = {"Kustomization", "ServiceMonitor"}
PATCHES = "tls.yaml"


def _objects(pattern: str = "*/*.yaml") -> list[Any]:
    files = sorted(file for file in FOLDER.glob(pattern) if file.name != PATCHES)
    return [
        pytest.param(loaded, id=f"{file.parent.name}/{file.name}")
        for file in files
        for loaded in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]


OBJECTS = _objects()
WITH_PODS = [found for found in OBJECTS if "template" in found.values[0].get("spec", {})]


@pytest.mark.parametrize("loaded", OBJECTS)
def test_every_file_is_what_kubernetes_own_schema_says(loaded: dict[str, Any]) -> None:
    if loaded["kind"] not in NOT_KUBERNETES_OWN:
        kubernetes_validate.validate(loaded, VERSION, strict=True)


def _patched(base: Any, patch: Any) -> Any:
    """What a strategic merge makes of an object: lists are merged by the key that their items have, null deletes."""
    if isinstance(patch, dict) and isinstance(base, dict):
        found = base | {key: _patched(base.get(key), value) for key, value in patch.items() if value is not None}
        return {key: value for key, value in found.items() if key not in patch or patch[key] is not None}
    if not isinstance(patch, list) or not isinstance(base, list):
        return patch
    key = next(key for key in ("mountPath", "port", "name") if all(key in item for item in patch))
    given = {item[key]: item for item in patch}
    kept = [_patched(item, given.pop(item[key])) if item[key] in given else item for item in base]
    return kept + list(given.values())


@pytest.mark.parametrize("folder", ["postgres", "sqlite"])
def test_with_tls_the_objects_are_still_what_the_schema_says_and_nothing_is_left_of_what_knows_no_tls(
    folder: str,
) -> None:
    files = [*(FOLDER / folder).glob("*.yaml")]
    objects = {
        (loaded["kind"], loaded["metadata"]["name"]): loaded
        for file in files
        if file.name not in (PATCHES, "kustomization.yaml")
        for loaded in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    }
    patches = [*yaml.safe_load_all((FOLDER / folder / PATCHES).read_text(encoding="utf-8"))]
    patched = [_patched(objects[patch["kind"], patch["metadata"]["name"]], patch) for patch in patches]
    for loaded in patched:
        kubernetes_validate.validate(loaded, VERSION, strict=True)
    workload, service = patched
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "access"]

    assert not any("grpc" in container[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert environment["RUNTIMESTORE_INSECURE"] == "false"
    given = [environment[f"RUNTIMESTORE_{name}"] for name in ("TLS_CERT", "TLS_KEY", "ACCESS_FILE")]
    assert {str(Path(path or "").parent) for path in given} == {mount["mountPath"]}
    assert "subPath" not in mount
    assert {"access", "tmp"} <= {volume["name"] for volume in pod["volumes"]}
    assert [port.get("appProtocol") for port in service["spec"]["ports"]] == ["https", None]


@pytest.mark.parametrize("folder", ["postgres", "sqlite"])
def test_all_files_of_a_folder_are_applied(folder: str) -> None:
    named = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]

    others = {file.name for file in (FOLDER / folder).iterdir()} - {"kustomization.yaml", PATCHES}
    assert sorted(others) == named


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

    assert "grpc" in container["readinessProbe"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["terminationGracePeriodSeconds"] > 10
    assert loaded["kind"] != "StatefulSet" or loaded["spec"]["replicas"] == 1
