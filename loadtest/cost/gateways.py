"""The gateways to measure: nginx as the yardstick, the router, and any other that the user names."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.cost.tools import Endpoints
from loadtest.processes import BenchError, Place, Processes, family, free_ports, router_command

NGINX_CONF = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log stderr error;
# Twice the possible number: with less than a sixteenth free, nginx closes connections that have not sent a request.
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream endpoints {{
        {servers}
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://endpoints;
            proxy_buffering off;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

ENDPOINT_YAML = """\
  - name: endpoint-{port}
    kind: openai
    base_url: http://127.0.0.1:{port}/v1
    models: {{m: m}}
    pool: {{min_idle: 2, max: 20000}}
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway's name and command; `start` fills in the {words} of the command."""

    name: str
    command: str


@dataclass(frozen=True)
class Running:
    name: str
    port: int
    process: subprocess.Popen[Any]

    @property
    def pids(self) -> list[int]:
        return family(self.process.pid)


def named(text: str) -> Gateway:
    """The gateway that a --gateway option names: `router`, `nginx`, or NAME=COMMAND."""
    name, _, command = text.partition("=")
    if command:
        return Gateway(name, command)
    if name == "nginx":
        return nginx()
    if name == "router":
        return router()
    raise BenchError(f"--gateway {text}: must be router, nginx or NAME=COMMAND")


def router() -> Gateway:
    return Gateway("router", router_command())


def nginx() -> Gateway:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which("nginx", path=path) or install_nginx(path)
    return Gateway("nginx", f"{shlex.quote(program)} -p {{folder}} -e stderr -c {{nginx_conf}}")


def install_nginx(path: str) -> str:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1: otherwise the package starts a server of its own, which listens on all addresses.
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "install", "-y", "-q", "nginx-light"], env=quiet, stdout=subprocess.DEVNULL)
    program = shutil.which("nginx", path=path)
    if not program:
        raise BenchError("nginx, the yardstick, is missing: install it (Debian: apt-get install nginx-light)")
    return program


def start(gateway: Gateway, endpoints: Endpoints, processes: Processes, place: Place, files: int) -> Running:
    (port,) = free_ports(1)
    command = gateway.command.format(
        port=port,
        endpoints=" ".join(map(str, endpoints.ports)),
        config=write_endpoints_yaml(processes.folder, port, endpoints),
        nginx_conf=write_nginx_conf(processes.folder, port, endpoints, files),
        folder=processes.folder,
    )
    log = f"{gateway.name}-{port}"
    process = processes.start(log, shlex.split(command), place)
    processes.wait_ready(log, process, port)
    return Running(gateway.name, port, process)


def write_endpoints_yaml(folder: Path, port: int, endpoints: Endpoints) -> Path:
    config = folder / f"endpoints-{port}.yaml"
    config.write_text("endpoints:\n" + "".join(ENDPOINT_YAML.format(port=each) for each in endpoints.ports))
    return config


def write_nginx_conf(folder: Path, port: int, endpoints: Endpoints, files: int) -> Path:
    conf = folder / f"nginx-{port}.conf"
    servers = "\n        ".join(f"server 127.0.0.1:{each};" for each in endpoints.ports)
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, files=files, connections=2 * files, servers=servers))
    return conf
