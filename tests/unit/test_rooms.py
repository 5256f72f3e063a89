"""The walls between rooms hold: each breach that is planted is found, and what is allowed is not taken for one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_GATEWAY: Final = "changefeed_gateway"
_BREACHES: Final = {
    "api/intruder.py": (
        "opentelemetry",
        "prometheus_client",
        "psycopg",
        "boto3",
        "azure",
        "yaml",
        "jwt",
        "cryptography",
        f"{_GATEWAY}.providers.memory.provider",
    ),
    "app/intruder.py": (
        "opentelemetry",
        "prometheus_client",
        "psycopg",
        "boto3",
        "azure",
        "grpc",
        "google.protobuf",
        "changefeed.v1",
    ),
    "app/second_intruder.py": ("jwt", "cryptography"),
    "cli/intruder.py": ("psycopg", "boto3", "azure", f"{_GATEWAY}.core.model", f"{_GATEWAY}.api.status"),
    "core/intruder.py": (
        "opentelemetry",
        "prometheus_client",
        "jwt",
        "psycopg",
        "boto3",
        "azure",
        "grpc",
        "google.protobuf",
        f"{_GATEWAY}.settings",
    ),
    "providers/cosmos/intruder.py": ("psycopg", "boto3", "google.cloud", f"{_GATEWAY}.providers.memory.provider"),
    "providers/dynamodb/intruder.py": ("psycopg", "azure", "grpc", f"{_GATEWAY}.providers.memory.provider"),
    "providers/memory/intruder.py": ("psycopg", "boto3", "azure", "google.cloud", f"{_GATEWAY}.api.status"),
    "providers/postgres/intruder.py": ("boto3", "azure", "google.cloud", "changefeed.v1", "changefeed_client"),
    "providers/postgres/ticks/intruder.py": (f"{_GATEWAY}.providers.postgres.log.log",),
    "providers/spanner/intruder.py": ("psycopg", "boto3", "azure", "grpc", "changefeed.v1"),
    "settings/intruder.py": ("psycopg", "boto3", "azure", "grpc", f"{_GATEWAY}.api.status"),
}
"""Files, and what each imports that it must not."""

_ALLOWED: Final = {
    "api/identity/neighbour.py": ("jwt", "cryptography"),
    "providers/cosmos/provider.py": ("azure.cosmos",),
    "providers/spanner/provider.py": ("google.cloud.spanner",),
    "app/opening/neighbour.py": (f"{_GATEWAY}.providers.memory.provider", f"{_GATEWAY}.settings"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the house in which all breaches are planted at once."""
    house = tmp_path_factory.mktemp("house")
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "server", house / "server", ignore=left_out)
    shutil.copytree(_ROOT / "clients/python", house / "client", ignore=left_out)
    shutil.copy(_ROOT / "pyproject.toml", house)
    for name, imports in (_BREACHES | _ALLOWED).items():
        file = house / "server" / _GATEWAY / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text("".join(f"import {module}\n" for module in imports))
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=house,
        env=os.environ | {"PYTHONPATH": f"server:{house}/client/src:{house}/client/gen", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("file", "module"), [(file, module) for file, modules in _BREACHES.items() for module in modules]
)
def test_a_breach_is_found(report: str, file: str, module: str) -> None:
    importer = f"{_GATEWAY}.{file.removesuffix('.py').replace('/', '.')}"
    imported = module if module.startswith(_GATEWAY) else module.partition(".")[0]
    assert f"{importer} -> {imported} (l." in report or f"{importer} -> {imported}\n" in report


@pytest.mark.parametrize("file", _ALLOWED)
def test_what_is_allowed_is_no_breach(report: str, file: str) -> None:
    assert f"{_GATEWAY}.{file.removesuffix('.py').replace('/', '.')} ->" not in report
