"""What the agent tells about the sandbox this machine has become."""

import asyncio
import http.client
import json
import os
import urllib.parse

ID_FILE = os.environ.get("CUBE_SANDBOX_ID_FILE", "/run/e2b/.E2B_SANDBOX_ID")
AGENT_URL = os.environ.get("CUBE_AGENT_URL", "http://localhost:49983")


def identity() -> str:
    """The sandbox's name. It differs from the one an earlier call gave when this machine is a clone made since."""
    try:
        with open(ID_FILE, encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


async def environment(access_token: str) -> dict[str, str] | None:
    """The environment variables the sandbox was created with; None when the agent does not say."""
    return await asyncio.to_thread(_get_environment, access_token)


def _get_environment(access_token: str) -> dict[str, str] | None:
    address = urllib.parse.urlsplit(AGENT_URL)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=2)
    try:
        connection.request("GET", "/envs", headers={"X-Access-Token": access_token} if access_token else {})
        response = connection.getresponse()
        variables = json.loads(response.read())
        if response.status != 200 or not isinstance(variables, dict):
            return None
        return {name: value for name, value in variables.items() if isinstance(value, str) and "\0" not in value}
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
