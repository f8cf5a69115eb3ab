"""A CycloneDX 1.6 bill of materials of an image: the Python packages of its environment, and Debian's.

    python sbom.py NAME VERSION >sbom.cdx.json      with the environment's own interpreter

The same packages give the same bytes: there is no time and no random serial number in it (set SOURCE_DATE_EPOCH
for a time stamp).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

SPEC = "1.6"
_FORMAT = "${Package}\t${Version}\t${Architecture}\n"


def python_packages() -> list[dict[str, Any]]:
    """What this interpreter can import, by name; ECMA-424 components with package URLs."""
    found: dict[str, dict[str, Any]] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
        component: dict[str, Any] = {
            "type": "library", "name": name, "version": distribution.version,
            "purl": f"pkg:pypi/{name}@{quote(distribution.version)}",
        }  # fmt: skip
        if "License-Expression" in metadata:
            component["licenses"] = [{"expression": metadata["License-Expression"]}]
        elif "License" in metadata and (licence := metadata["License"].strip().splitlines()):
            component["licenses"] = [{"license": {"name": licence[0][:120]}}]
        found.setdefault(name, component | {"bom-ref": component["purl"]})
    return [found[name] for name in sorted(found)]


def debian_packages() -> list[dict[str, Any]]:
    """What dpkg has installed; nothing where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return []
    told = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={_FORMAT}"], capture_output=True, text=True, check=True
    )
    found = []
    for line in sorted(set(told.stdout.splitlines())):
        name, version, machine = line.split("\t")
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={machine}"
        found.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return found


def bill(name: str, version: str) -> dict[str, Any]:
    """The whole document."""
    components = [*python_packages(), *debian_packages()]
    content = json.dumps(components, sort_keys=True)
    metadata: dict[str, Any] = {
        "component": {"type": "container", "name": name, "version": version, "bom-ref": f"{name}@{version}"},
        "tools": {"components": [{"type": "application", "name": "microturn-sbom", "version": "1"}]},
    }
    if stamp := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata["timestamp"] = datetime.fromtimestamp(int(stamp), UTC).isoformat()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name + version + content)}",
        "version": 1,
        "metadata": metadata,
        "components": components,
    }


def main(arguments: list[str]) -> int:
    """Writes it to standard output."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    json.dump(bill(*arguments), sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
