"""What Kubernetes gets of a folder of `deploy/kubernetes`: its resources, and those with each patch beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KUSTOMIZATION = "kustomization.yaml"

_KEYS = {"volumeMounts": ("mountPath",), "ports": ("containerPort", "port")}
"""By what the entries of a list are known, where it is not their name: as Kubernetes' own schema says."""


def objects(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of every file below a folder, and its file; what no kustomization applies is a patch over others.

    Raises:
        LookupError: a patch is over nothing.
    """
    for kustomization in sorted(folder.rglob(KUSTOMIZATION)):
        applied = yaml.safe_load(kustomization.read_text(encoding="utf-8"))["resources"]
        there = [(name, found) for name in applied for found in _loaded(kustomization.parent / name)]
        for name, found in there:
            yield f"{kustomization.parent.name}/{name}", found
        patches = {file.name for file in kustomization.parent.glob("*.y*ml")} - {KUSTOMIZATION, *applied}
        for name in sorted(patches):
            for patch in _loaded(kustomization.parent / name):
                yield f"{kustomization.parent.name}/{name}", merged(_base(patch, there), patch)


def files(folder: Path) -> set[str]:
    """Every file in YAML below a folder that should hold objects, as `objects` calls it."""
    return {f"{file.parent.name}/{file.name}" for file in folder.rglob("*.y*ml") if file.name != KUSTOMIZATION}


def merged(base: Any, patch: Any, key: str = "") -> Any:
    """A strategic merge: tables are merged, lists by what their entries are known by, and null takes away."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {name: merged(base.get(name), value, name) for name, value in patch.items()}
        return {name: value for name, value in (base | both).items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(one, dict) for one in patch):
        known_by = next(name for name in _KEYS.get(key, ("name",)) if all(name in one for one in base + patch))
        found = {one[known_by]: one for one in base}
        return list((found | {one[known_by]: merged(found.get(one[known_by]), one) for one in patch}).values())
    return patch


def _base(patch: dict[str, Any], there: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    for _, found in there:
        if (found["kind"], found["metadata"]["name"]) == (patch["kind"], patch["metadata"]["name"]):
            return found
    raise LookupError(f"a patch over {patch['kind']} {patch['metadata']['name']}, which nothing makes")


def _loaded(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
