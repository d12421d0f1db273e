"""The subjects, each configured for the same job as its manual recommends.

The job:

* end TLS 1.3 on a port of the loopback, request a client certificate and accept any;
* prove possession of the key with each connection: no resumption;
* remove the certificate header that the client sent, and add the genuine one;
* add ``X-Forwarded-For``, and keep connections to the back end open;
* write a line to an access log in a file.

There is one worker each. No worker closes a connection after a number of requests, or before an
idle minute. So a request on a kept connection costs no share of a handshake.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from bench.stage import ROOT, BenchError, Files, Stage
from bench.tokens import write_token
from tests.support.ports import free_port

__all__ = [
    "NAMES",
    "Place",
    "Subject",
    "start_back_end",
    "start_checkout",
    "start_protected",
    "start_subject",
]


@attrs.frozen
class Place:
    """Values for a subject's configuration. ``workers``: x509proxy's processes, if several."""

    folder: Path
    files: Files
    port: int
    back_end: int
    workers: int | None = None


@attrs.frozen
class Subject:
    """A running subject. ``buffers``: it holds bodies in memory, so only short ones measure it."""

    name: str
    version: str
    port: int
    pid: int
    buffers: bool = False


@attrs.frozen
class _Recipe:
    """A way to run a subject.

    ``configuration`` makes the text of the file ``NAME.conf``; ``command`` makes the command line
    from the program's path.
    """

    program: str
    version: Sequence[str]
    configuration: Callable[[Place], str]
    command: Callable[[str, Place], Sequence[str]]
    buffers: bool = False


def _nginx(place: Place) -> str:
    # By default its workers are "nobody", a user that cannot enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
daemon off; {user} worker_processes 1; worker_rlimit_nofile 16400;
pid {place.folder}/nginx.pid; error_log {place.folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
  access_log {place.folder}/nginx-access.log;
  client_body_temp_path {place.folder}/nginx-body; proxy_temp_path {place.folder}/nginx-proxy;
  fastcgi_temp_path {place.folder}/nginx-fastcgi; uwsgi_temp_path {place.folder}/nginx-uwsgi;
  scgi_temp_path {place.folder}/nginx-scgi;
  upstream back {{ server 127.0.0.1:{place.back_end}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{place.port} ssl backlog=1024;
    ssl_certificate {place.files.server}; ssl_certificate_key {place.files.server_key};
    ssl_protocols TLSv1.3; ssl_verify_client optional_no_ca;
    ssl_session_cache off; ssl_session_tickets off;
    keepalive_requests 1000000; keepalive_timeout 60s; client_max_body_size 0;
    location / {{
      proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_headers_hash_bucket_size 128; proxy_request_buffering off; proxy_max_temp_file_size 0;
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header {place.files.header_name} $ssl_client_escaped_cert;
    }}
  }}
}}
"""


def _haproxy(place: Place) -> str:
    name = place.files.header_name
    return f"""
global
  maxconn 8192
  nbthread 1
  tune.ssl.cachesize 0
  log stdout format raw local0 info
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
frontend tls
  bind 127.0.0.1:{place.port} backlog 1024 ssl crt {place.files.server_both} \
ssl-min-ver TLSv1.3 no-tls-tickets \
ca-file {place.files.client} verify optional ca-ignore-err all crt-ignore-err all
  http-request del-header {name}
  http-request set-header {name} %[ssl_c_der,base64] if {{ ssl_c_used }}
  default_backend back
backend back
  http-reuse always
  server one 127.0.0.1:{place.back_end}
"""


def _apache(place: Place) -> str:
    modules = ("mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http")
    # A thread for each request in flight; idle connections wait in the listener's poll without one.
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    loaded = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules
    )
    return f"""
{loaded}
{user}
ServerName localhost
ServerRoot {place.folder}
DefaultRuntimeDir {place.folder}
PidFile {place.folder}/apache.pid
ErrorLog {place.folder}/apache-error.log
CustomLog {place.folder}/apache-access.log "%h %l %u %t \\"%r\\" %>s %b"
Listen 127.0.0.1:{place.port}
ListenBacklog 1024
ServerLimit 1
StartServers 1
ThreadLimit 1024
ThreadsPerChild 1024
MaxRequestWorkers 1024
AsyncRequestWorkerFactor 8
KeepAliveTimeout 60
MaxKeepAliveRequests 0
SSLSessionCache none
SSLSessionTickets off
<VirtualHost 127.0.0.1:{place.port}>
  SSLEngine on
  SSLProtocol TLSv1.3
  SSLCertificateFile {place.files.server}
  SSLCertificateKeyFile {place.files.server_key}
  SSLVerifyClient optional_no_ca
  RequestHeader set {place.files.header_name} "%{{SSL_CLIENT_CERT}}s"
  ProxyPass / http://127.0.0.1:{place.back_end}/
</VirtualHost>
"""


def _ours(place: Place) -> str:
    return f"""
listen = ["tcp:{place.port}:interface=127.0.0.1:backlog=1024"]
certificate = "{place.files.server}"
private-key = "{place.files.server_key}"
backend = ["http://127.0.0.1:{place.back_end}"]
preset = "connect2id"
header-file = "{place.files.header}"
access-log = "{place.folder}/x509proxy-access.log"
[admin]
listen = "unix:{place.folder}/x509proxy-admin.sock"
[tls]
minimum-version = "1.3"
[client]
max-requests-per-connection = 1000000
idle-timeout = 60
max-connections = 8192
max-body-bytes = 1073741824
[upstream]
max-queued-requests = 4096
"""


def _run_ours(program: str, place: Place) -> Sequence[str]:
    twistd = str(Path(program).parent / "twistd")
    line = [
        twistd,
        "-n",
        "--pidfile=",
        "x509proxy",
        "--config",
        str(place.folder / "x509proxy.conf"),
    ]
    return line if place.workers is None else [*line, "--workers", str(place.workers)]


_VERSIONS = """
import platform, twisted
from OpenSSL import SSL
openssl = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
print("Python", platform.python_version(), "Twisted", twisted.__version__, openssl)
"""

_BARE_VERSIONS = """
import platform, ssl
print("Python", platform.python_version(), ssl.OPENSSL_VERSION)
"""


def _script(name: str, version: str, *, buffers: bool = False) -> _Recipe:
    """Return the way to run a script of this folder; ``version``: a program that prints its own."""

    def command(program: str, place: Place) -> Sequence[str]:
        script = str(ROOT / "bench" / name)
        return [program, "-P", script, str(place.port), str(place.back_end), str(place.folder)]

    return _Recipe(sys.executable, ["-c", version], lambda _place: "", command, buffers)


_RECIPES: Mapping[str, _Recipe] = {
    "nginx": _Recipe(
        "nginx",
        ["-v"],
        _nginx,
        lambda program, place: [program, "-c", str(place.folder / "nginx.conf")],
    ),
    "haproxy": _Recipe(
        "haproxy",
        ["-v"],
        _haproxy,
        lambda program, place: [program, "-db", "-f", str(place.folder / "haproxy.conf")],
    ),
    "apache": _Recipe(
        "apache2",
        ["-v"],
        _apache,
        lambda program, place: [program, "-DFOREGROUND", "-f", str(place.folder / "apache.conf")],
    ),
    "stock": _script("stock.py", _VERSIONS),
    "bare": _script("bare.py", _BARE_VERSIONS, buffers=True),
    "twisted": _script("twisted_bare.py", _VERSIONS, buffers=True),
    "x509proxy": _Recipe(
        sys.executable,
        ["-c", _VERSIONS],
        _ours,
        _run_ours,
    ),
}

NAMES = tuple(_RECIPES)
"""The subjects, in the order of the tables. The others are compared with the first."""


def start_subject(
    stage: Stage, name: str, files: Files, back_end: int, workers: int | None = None
) -> Subject:
    """Start a subject; :raises BenchError: its program is missing, or does not start."""
    recipe = _RECIPES[name]
    program = stage.find(recipe.program)
    version = stage.run([program, *recipe.version]).strip().splitlines()[0]
    place = Place(stage.folder, files, free_port(), back_end, workers)
    path = stage.folder / f"{name}.conf"
    path.touch(0o600)
    path.write_text(recipe.configuration(place), "utf-8")
    # This checkout is measured, installed or not.
    pid = stage.start(name, recipe.command(program, place), place.port, {"PYTHONPATH": str(ROOT)})
    return Subject(name, version, place.port, pid, recipe.buffers)


def start_protected(stage: Stage, files: Files, back_end: int) -> tuple[Subject, Path]:
    """Start x509proxy with a rule about access tokens, which other loads are measured without.

    :returns: it, and the file of a token that it accepts.
    :raises BenchError: it does not start, or joserfc is missing.
    """
    folder = stage.folder / "protected"
    folder.mkdir()
    place = Place(folder, files, free_port(), back_end)
    token, toml = write_token(folder, files)
    path = folder / "x509proxy.conf"
    path.touch(0o600)
    path.write_text(_ours(place) + toml, "utf-8")
    command = _run_ours(sys.executable, place)
    pid = stage.start("protected", command, place.port, {"PYTHONPATH": str(ROOT)})
    return Subject("protected", "", place.port, pid), token


# The names of settings differ between versions: each writes its own configuration. Private names
# are part of this, for the sake of versions that exist already.
_OTHER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import x509proxy
from bench.subjects import _RECIPES
given = json.loads(sys.argv[1])
files = SimpleNamespace(**given.pop("files"))
place = SimpleNamespace(**given | {"folder": Path(given["folder"]), "files": files})
recipe = _RECIPES["x509proxy"]
command = [str(word) for word in recipe.command(sys.executable, place)]
print(json.dumps([x509proxy.__file__, recipe.configuration(place), command]))
"""


def start_checkout(
    stage: Stage, path: str, files: Files, back_end: int, workers: int | None = None
) -> Subject:
    """Start the x509proxy of another checkout.

    :raises BenchError: there is none in it, or it does not start.
    """
    root = Path(path).resolve()
    name = f"x509proxy@{root.name}"
    folder = stage.folder / name
    folder.mkdir()
    place = Place(folder, files, free_port(), back_end, workers)
    # The name of the header stays in its file: other users can read a command line.
    given = {
        "folder": str(folder),
        "port": place.port,
        "back_end": back_end,
        "workers": workers,
        "files": {name: str(getattr(files, name)) for name in ("server", "server_key", "header")},
    }
    environment = {"PYTHONPATH": str(root)}
    output = stage.run(
        [sys.executable, "-P", "-c", _OTHER, json.dumps(given)], environment=environment
    )
    package, configuration, command = json.loads(output.splitlines()[-1])
    if not Path(package).is_relative_to(root):
        raise BenchError(f"{path}: found x509proxy in {package}, expected it in that folder")
    written = folder / "x509proxy.conf"
    written.touch(0o600)
    written.write_text(configuration, "utf-8")
    pid = stage.start(name, command, place.port, environment)
    return Subject(name, f"x509proxy of {root}", place.port, pid)


def start_back_end(stage: Stage) -> tuple[int, int]:
    """Start the back end that all subjects share; return its port and its process id."""
    port = free_port()
    command = [sys.executable, "-P", str(ROOT / "bench" / "backend.py"), str(port)]
    return port, stage.start("back-end", command, port)
