"""Terminators to audit, as their documentation configures them, and as exported.

The configurations named ``published`` are those of manuals, guides and blog posts; their sources
stand beside them. ``{…}`` are values of the run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs

from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.export.command import export
from x509proxy.forwarding.secret_name import new_header_name

__all__ = ["PEERS", "Peer", "Place", "audit_command", "caddy", "exported", "published"]

NAME = "X-Client-Cert"


@attrs.frozen
class Peer:
    """One product.

    ``published``: a configuration as manuals have it; ``form``: its header's format.
    """

    name: str
    published: str
    file: str
    run: tuple[str, ...]
    check: tuple[str, ...]
    version: tuple[str, ...]
    form: str = "pem-url"

    @property
    def program(self) -> str:
        """The program's path, or its name if it is not installed."""
        return caddy() if self.name == "caddy" else self.run[0]

    def command(self, words: tuple[str, ...], path: Path) -> list[str]:
        """Return a command with the configuration's path and folder filled in."""
        filled = [word.format(path=path, folder=path.parent) for word in words]
        return [self.program, *filled[1:]]

    def read_version(self) -> str:
        """Return the version that the program reports."""
        command = [self.program, *self.version[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(
            r"(?:caddyserver/caddy/v2\s+v|nginx/|version |Apache/)(\d+\.\d+(?:\.\d+)?)",
            done.stdout + done.stderr,
        )
        return found[1] if found else "unknown"


def caddy() -> str:
    """Return the path of Caddy: ``X509PROXY_CADDY``, or the target of ``go install``."""
    cached = Path.home() / ".cache" / "x509proxy-interop" / "bin" / "caddy"
    return os.environ.get("X509PROXY_CADDY") or shutil.which("caddy") or str(cached)


# nginx.org, "Module ngx_http_ssl_module", and the accepted answers to serverfault.com 788895.
_NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{plain};
        location / {{ proxy_pass http://127.0.0.1:{back_end}; }}
    }}
    server {{
        listen 127.0.0.1:{port} ssl http2;
        server_name localhost;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_session_cache shared:SSL:1m;
        ssl_verify_client optional_no_ca;
        proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
        location / {{
            proxy_pass http://127.0.0.1:{back_end};
        }}
        location /.well-known/ {{
            proxy_set_header Host $host;
            proxy_pass http://127.0.0.1:{back_end};
        }}
    }}
}}
"""

# HAProxy's blog, "Restrict API access with client certificates", with the manual's verify options.
_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend https
    bind 127.0.0.1:{port} ssl crt {folder}/both.pem ca-file {folder}/server.pem verify optional \
ca-ignore-err all crt-ignore-err all alpn h2,http/1.1
    http-request set-header X-SSL-Client-Verify %[ssl_c_verify]
    http-request set-header X-Client-Cert %[ssl_c_der,base64] if {{ ssl_c_used }}
    default_backend servers

frontend http
    bind 127.0.0.1:{plain}
    default_backend servers

backend servers
    server one 127.0.0.1:{back_end}
"""

# httpd.apache.org, "SSL/TLS Strong Encryption: How-To", and Connect2id's FAPI checklist.
_APACHE = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
{modules}
Listen 127.0.0.1:{port}
Listen 127.0.0.1:{plain}
Protocols h2 http/1.1
SSLSessionCache shmcb:{folder}/sessions(512000)
ProxyPass / http://127.0.0.1:{back_end}/
<VirtualHost 127.0.0.1:{port}>
    ServerName localhost
    SSLEngine on
    SSLCertificateFile {folder}/server.pem
    SSLCertificateKeyFile {folder}/server.key
    SSLVerifyClient optional_no_ca
    SSLOptions +ExportCertData
    RequestHeader set X-Client-Cert "%{{SSL_CLIENT_CERT}}s"
</VirtualHost>
"""

# caddy.community, "Passing client certificates to a back end".
_CADDY = """
{{
    admin off
    auto_https off
    persist_config off
    storage file_system {folder}/caddy
}}
https://localhost:{port} {{
    bind 127.0.0.1
    tls {folder}/server.pem {folder}/server.key {{
        client_auth {{
            mode request
        }}
    }}
    reverse_proxy 127.0.0.1:{back_end} {{
        header_up X-Client-Cert {{http.request.tls.client.certificate_der_base64}}
    }}
}}
http://:{plain} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{back_end}
}}
"""

PEERS = (
    Peer(
        "nginx", _NGINX, "nginx.conf",
        ("nginx", "-c", "{path}"), ("nginx", "-t", "-c", "{path}"), ("nginx", "-v"),
    ),
    Peer(
        "haproxy", _HAPROXY, "haproxy.cfg",
        ("haproxy", "-db", "-f", "{path}"), ("haproxy", "-c", "-f", "{path}"), ("haproxy", "-v"),
        "base64-der",
    ),
    Peer(
        "apache", _APACHE, "apache.conf",
        ("apache2", "-X", "-f", "{path}"), ("apache2", "-t", "-f", "{path}"), ("apache2", "-v"),
        "pem-spaces",
    ),
    Peer(
        "caddy", _CADDY, "Caddyfile",
        ("caddy", "run", "--adapter", "caddyfile", "--config", "{path}"),
        ("caddy", "validate", "--adapter", "caddyfile", "--config", "{path}"),
        ("caddy", "build-info"), "base64-der",
    ),
)  # fmt: skip

_MODULES = (
    "mpm_event", "authz_core", "headers", "proxy", "proxy_http", "ssl", "socache_shmcb", "http2",
    "setenvif",
)  # fmt: skip
APACHE_MODULES = "\n".join(
    f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES
)

# Exports are written for these settings; the words before are what their files leave to the user.
TOML = """
listen = "tcp:{port}:interface=127.0.0.1"
certificate = "{folder}/both.pem"
header-file = "{folder}/header.txt"
backend = "http://127.0.0.1:{back_end}"
client.allowed-hosts = ["localhost"]
"""
_AROUND = {
    "nginx": """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {exported};
}}
""",
    "apache": """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
{modules}
Include {exported}
""",
}


@attrs.frozen
class Place:
    """A folder with the files of a terminator, and the ports of this run."""

    folder: Path
    port: int
    plain: int
    back_end: int

    def fill(self, text: str, exported: Path | None = None) -> str:
        """Return a text with the places of this machine."""
        return text.format(
            folder=self.folder, port=self.port, plain=self.plain, back_end=self.back_end,
            modules=APACHE_MODULES, exported=exported,
        )  # fmt: skip

    def prepare(self) -> None:
        """Write the server's certificate and key, and a secret header name."""
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        files = {
            "server.pem": made.certificate_pem,
            "server.key": made.key_pem,
            "both.pem": made.certificate_pem + made.key_pem,
            "header.txt": new_header_name().encode("ascii") + b"\n",
        }
        # nginx and Apache read them as root, and work as another user.
        self.folder.chmod(0o755)
        for name, data in files.items():
            path = self.folder / name
            path.touch(0o600)
            path.write_bytes(data)


def published(peer: Peer, place: Place) -> Path:
    """Write the documented configuration; return its path."""
    path = place.folder / peer.file
    path.write_text(place.fill(peer.published))
    return path


def exported(peer: Peer, place: Place) -> Path:
    """Write the configuration that ``x509proxy export`` makes; return its path."""
    toml = place.folder / "x509proxy.toml"
    toml.write_text(place.fill(TOML))
    text, _ = export(peer.name, str(toml))
    path = place.folder / f"exported-{peer.file}"
    path.write_text(text)
    if peer.name not in _AROUND:
        return path
    around = place.folder / peer.file
    around.write_text(place.fill(_AROUND[peer.name], path))
    return around


def audit_command(place: Place, *options: str) -> list[str]:
    """Return the command line of an audit of what listens at the place."""
    program = Path(sys.executable).with_name("x509proxy")
    return [
        str(program), "audit", f"https://localhost:{place.port}", "--json",
        "--connect", f"127.0.0.1:{place.port}", "--listen", f"tcp:{place.back_end}", *options,
    ]  # fmt: skip


def published_options(peer: Peer, place: Place) -> list[str]:
    """Return the options for a documented configuration."""
    plain = f"http://127.0.0.1:{place.plain}"
    return ["--header", NAME, "--format", peer.form, "--plain", plain]


def exported_options(peer: Peer, place: Place) -> list[str]:
    """Return the options for an exported configuration."""
    form = "pem-url" if peer.name == "nginx" else "pem"
    return ["--header-file", str(place.folder / "header.txt"), "--format", form]
