"""A certificate for localhost that nobody has signed, by the program openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path) -> dict[str, str]:
    """Made in that folder; the settings that bring it. Skips the test where the program is not there."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH: no certificate to test with")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext {names}"
    subprocess.run(
        [*make.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    return {"http_tls_cert": str(folder / "cert.pem"), "http_tls_key": str(folder / "key.pem")}
