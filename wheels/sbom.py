"""The bill of materials inside a wheel (PEP 770): CycloneDX 1.6 as JSON, what is in it and what made it."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

FORMAT = "1.6"


def _package(name: str, version: str, licence: str, kind: str = "library", **more: Any) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower()}@{version}"
    entry = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return entry | {"licenses": [{"license": {"id": licence}}]} | more


def bill(version: str, files: Mapping[str, bytes], made_with: Mapping[str, str], date: int) -> bytes:
    """The SBOM of a wheel that holds ``files`` {name: bytes}; ``made_with`` {package: version}, names as in requirements.txt.

    Built from nothing but its arguments: equal wheels have equal bills.
    """
    name = "fastlstm"
    modules = [
        {
            "type": "file",
            "bom-ref": path,
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        }
        for path, content in sorted(files.items())
        if path.endswith(".so")
    ]
    within = [
        _package("Cython", made_with["Cython"], "Apache-2.0", scope="required", description="its support code is compiled in"),
        _package("numpy", made_with["numpy"], "BSD-3-Clause", scope="required", description="its C headers; needed at run time"),
    ]
    product = _package(name, version, "BSD-3-Clause", components=modules)
    tools = [
        {"type": "application", "name": tool, "version": made_with[tool]}
        for tool in sorted(made_with, key=str.lower)
        if tool not in ("Cython", "numpy")
    ]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{FORMAT}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": FORMAT,
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(date)),
            "tools": {"components": tools},
            "component": product,
        },
        "components": within,
        "dependencies": [
            {"ref": product["bom-ref"], "dependsOn": [entry["bom-ref"] for entry in within]},
            *({"ref": entry["bom-ref"]} for entry in within),
        ],
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = uuid.UUID(digest[:32], version=4).urn
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
