"""Stands in for grpcurl where it is not installed: translates its command line to `buf curl`, its answers back."""

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Iterator

from google.protobuf import json_format
from google.rpc import error_details_pb2

_FEWEST_RPC_FAILURE = 8
"""buf ends with less when the fault is its own."""


def main() -> int:
    """Run one command."""
    options, words = _parse(sys.argv[1:])
    match words:
        case [address, "list"]:
            return _run("--list-services", f"http://{address}")
        case [address, "list", service]:
            return _list_methods(address, service)
        case [address, method]:
            headers = [part for header in options.headers for part in ("--header", header)]
            return _call(*headers, "--data", options.data, f"http://{address}/{method}")
        case _:
            raise SystemExit(f"no translation for {words}")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", dest="data", default="{}")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("words", nargs="+")
    options = parser.parse_args(arguments)
    return options, options.words


def _run(*arguments: str) -> int:
    return subprocess.run(["buf", "curl", "--protocol", "grpc", *arguments], check=False).returncode


def _list_methods(address: str, service: str) -> int:
    command = ["buf", "curl", "--protocol", "grpc", "--list-methods", f"http://{address}"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    for method in answer.stdout.splitlines():
        if method.startswith(f"{service}/"):
            print(method.replace("/", "."))
    return 0


def _call(*arguments: str) -> int:
    command = ["buf", "curl", "--protocol", "grpc", *arguments]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    sys.stdout.write(answer.stdout)
    if answer.returncode < _FEWEST_RPC_FAILURE:
        sys.stderr.write(answer.stderr)
    else:
        sys.stderr.writelines(f"{line}\n" for line in _as_grpcurl_says(json.loads(answer.stderr)))
    return answer.returncode


def _as_grpcurl_says(error: dict[str, object]) -> Iterator[str]:
    yield "ERROR:"
    yield "  Code: " + "".join(word.title() for word in str(error["code"]).split("_"))
    yield f"  Message: {error['message']}"
    details = error.get("details", [])
    assert isinstance(details, list)
    for detail in details:
        message = getattr(error_details_pb2, detail["type"].removeprefix("google.rpc."))()
        message.ParseFromString(base64.b64decode(detail["value"] + "=="))
        content = json_format.MessageToDict(message, preserving_proto_field_name=True)
        yield json.dumps({"@type": f"type.googleapis.com/{detail['type']}", **content}, indent=2)


if __name__ == "__main__":
    sys.exit(main())
