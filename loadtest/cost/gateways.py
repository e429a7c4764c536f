"""The gateways to measure: nginx as the yardstick, the router in both builds, and any other that the user names."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.cost.tools import Endpoints, run_client
from loadtest.processes import READY_WITHIN, ROOT, BenchError, Place, Processes, family, free_ports, router_command

COMPILE = ROOT / "scripts" / "compile"

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

# The limits of a cluster are 1,024 by default, and a route's timeout is 15 s: both are less than part d needs.
ENVOY_CONF = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: endpoints, timeout: 0s}}}}]
  clusters:
  - name: endpoints
    type: STATIC
    circuit_breakers:
      thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]
    load_assignment:
      cluster_name: endpoints
      endpoints:
      - lb_endpoints:
{servers}
"""

ENVOY_ENDPOINT = """        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"""


@dataclass(frozen=True)
class Gateway:
    """A gateway's name and command; `start` fills in the {words} of the command."""

    name: str
    command: str
    # A peer may fail to start without ending the run, and does not decide the rates of part c.
    peer: bool = False


@dataclass(frozen=True)
class Running:
    gateway: Gateway
    port: int
    process: subprocess.Popen[Any]

    @property
    def name(self) -> str:
        return self.gateway.name

    @property
    def pids(self) -> list[int]:
        return family(self.process.pid)


def named(text: str) -> Gateway:
    """The gateway that a --gateway option names: `router`, `compiled`, `nginx`, or NAME=COMMAND."""
    name, _, command = text.partition("=")
    if command:
        return Gateway(name, command)
    if name == "nginx":
        return nginx()
    if name == "router":
        return router()
    if name == "compiled":
        return compiled()
    raise BenchError(f"--gateway {text}: must be router, compiled, nginx or NAME=COMMAND")


def router() -> Gateway:
    return Gateway("router", router_command())


def compiled(script: Path = COMPILE) -> Gateway:
    """The router's compiled build, which the same command runs if its folder comes first on Python's path."""
    if not script.exists():
        raise BenchError("--gateway compiled: this checkout has no scripts/compile")
    # Returns at once if there is a copy that fits the sources.
    if subprocess.run([str(script)], stdout=sys.stderr).returncode:
        raise BenchError("--gateway compiled: scripts/compile built nothing; its messages are above")
    found = subprocess.run([str(script), "--check"], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise BenchError("--gateway compiled: the compiled copy does not fit the sources; run scripts/compile again")
    return Gateway("compiled", f"env {shlex.quote(f'PYTHONPATH={found.stdout.strip()}')} {router_command()}")


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
    port, spare = free_ports(2)
    command = gateway.command.format(
        port=port,
        spare=spare,
        endpoints=" ".join(map(str, endpoints.ports)),
        urls=" ".join(f"http://127.0.0.1:{each}" for each in endpoints.ports),
        config=write_endpoints_yaml(processes.folder, port, endpoints),
        nginx_conf=write_nginx_conf(processes.folder, port, endpoints, files),
        envoy_conf=write_envoy_conf(processes.folder, port, endpoints),
        folder=processes.folder,
    )
    log = f"{gateway.name}-{port}"
    # Without the bench's own path: the pure router, and a peer written in Python, must not import from it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = processes.start(log, shlex.split(command), place, env=env)
    try:
        processes.wait_ready(log, process, port)
        await_answer(port, place)
    except BenchError:
        processes.stop(process)
        raise
    return Running(gateway, port, process)


def await_answer(port: int, place: Place) -> None:
    """Wait until a plain request is answered: a gateway may listen before it knows that its endpoints are up."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        answer = run_client(place, [port], [], stream=0, clients=1, requests=1, seconds=5, drain=5)
        if answer["ok"]:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"port {port} does not answer requests: status {answer['last_bad_status'] or 'none'}")
        time.sleep(0.2)


def write_endpoints_yaml(folder: Path, port: int, endpoints: Endpoints) -> Path:
    config = folder / f"endpoints-{port}.yaml"
    config.write_text("endpoints:\n" + "".join(ENDPOINT_YAML.format(port=each) for each in endpoints.ports))
    return config


def write_nginx_conf(folder: Path, port: int, endpoints: Endpoints, files: int) -> Path:
    conf = folder / f"nginx-{port}.conf"
    servers = "\n        ".join(f"server 127.0.0.1:{each};" for each in endpoints.ports)
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, files=files, connections=2 * files, servers=servers))
    return conf


def write_envoy_conf(folder: Path, port: int, endpoints: Endpoints) -> Path:
    conf = folder / f"envoy-{port}.yaml"
    servers = "\n".join(ENVOY_ENDPOINT.format(port=each) for each in endpoints.ports)
    conf.write_text(ENVOY_CONF.format(port=port, servers=servers))
    return conf
