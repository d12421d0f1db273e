"""Promises of ``contrib/kubernetes``, by kustomize, Kubernetes' schemas, and a kubelet's files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from interop.stage import Stage
from x509proxy.config.loader import load_configuration, load_settings, override
from x509proxy.settings import ClientSettings

FOLDER = Path(__file__).parent.parent / "contrib" / "kubernetes"
BASE, AUTOSCALING = FOLDER / "base", FOLDER / "autoscaling"
BIN = Path(sys.executable).parent
# From the first version with preStop's sleep enabled by default, to the newest whose schemas are
# there.
VERSIONS = ("1.30", "1.37")
NAME = {"app.kubernetes.io/name": "x509proxy"}
USER = 65532


@cache
def built(folder: Path) -> str:
    """Return the objects that ``kubectl apply -k`` would send."""
    done = subprocess.run(
        [BIN / "kubectl", "kustomize", folder], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    return done.stdout.decode()


class ManifestStage(Stage):
    def setUp(self) -> None:
        super().setUp()
        self.require(str(BIN / "kubectl"), str(BIN / "kubernetes-validate"))
        self.objects = list(yaml.safe_load_all(built(BASE)))
        self.pods = self.one("Deployment")["spec"]["template"]["spec"]
        (self.container,) = self.pods["containers"]

    def one(self, kind: str, name: str = "x509proxy") -> Any:
        """Return the object of this kind and name."""
        found = [
            one
            for one in self.objects
            if one["kind"] == kind
            and re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"]) == name
        ]
        self.assertEqual(1, len(found), f"{kind} {name}")
        return found[0]


class Manifests(ManifestStage):
    def test_schemas(self) -> None:
        """Each object fits the oldest and the newest Kubernetes here, without an unknown field."""
        for folder in (BASE, AUTOSCALING):
            path = self.write("built.yaml", built(folder))
            for version in VERSIONS:
                self.run_program(
                    str(BIN / "kubernetes-validate"),
                    "--strict",
                    "--kubernetes-version",
                    version,
                    str(path),
                )

    def test_whole(self) -> None:
        """Every file has its place in a kustomization, except for the template of the secrets."""
        for folder in (BASE, AUTOSCALING):
            listed = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
            files = {path.name for path in folder.glob("*.yaml")} - {
                "kustomization.yaml",
                "secrets.template.yaml",
            }
            self.assertEqual(files, listed - {"../base"})

    def test_no_values(self) -> None:
        """The template of the secrets holds names, and no secrets.

        The objects are those that the pods mount.
        """
        secrets = list(yaml.safe_load_all((BASE / "secrets.template.yaml").read_text()))
        self.assertEqual(
            [{"apiVersion", "kind", "metadata", "type"}] * 2, [set(secret) for secret in secrets]
        )
        mounted = {
            volume["secret"]["secretName"] for volume in self.pods["volumes"] if "secret" in volume
        }
        self.assertEqual(mounted, {secret["metadata"]["name"] for secret in secrets})

    def test_restricted(self) -> None:
        """The pods are restricted by the Pod Security Standards, with a read-only root."""
        pods, container = self.pods["securityContext"], self.container["securityContext"]
        self.assertTrue(pods["runAsNonRoot"])
        self.assertEqual({"type": "RuntimeDefault"}, pods["seccompProfile"])
        self.assertEqual((USER, USER), (pods["runAsUser"], pods["runAsGroup"]))
        self.assertEqual(
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            container,
        )
        self.assertFalse(self.pods["automountServiceAccountToken"])
        self.assertEqual([], [key for key in self.pods if key.startswith("host")])

    def test_names_of_images(self) -> None:
        """No image is fetched from a place that we chose for others."""
        self.assertRegex(self.container["image"], r"^x509proxy:[0-9.]+$")

    def test_patience(self) -> None:
        """A pod has the time to be forgotten by the balancer, and then to end what is in flight."""
        sleep = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.assertGreater(
            self.pods["terminationGracePeriodSeconds"], sleep + ClientSettings().drain_timeout
        )
        probe = self.container["readinessProbe"]
        self.assertGreater(sleep, probe["periodSeconds"] * probe["failureThreshold"])

    def test_never_less(self) -> None:
        """Neither a rollout nor maintenance takes more than one pod, and there are always two."""
        spec = self.one("Deployment")["spec"]
        self.assertGreaterEqual(spec["replicas"], 2)
        self.assertEqual(0, spec["strategy"]["rollingUpdate"]["maxUnavailable"])
        self.assertEqual(1, self.one("PodDisruptionBudget")["spec"]["maxUnavailable"])
        self.objects = list(yaml.safe_load_all(built(AUTOSCALING)))
        self.assertNotIn("replicas", self.one("Deployment")["spec"])
        self.assertGreaterEqual(self.one("HorizontalPodAutoscaler")["spec"]["minReplicas"], 2)

    def test_selectors(self) -> None:
        """The pods' labels select them, and no other object."""
        self.assertEqual(NAME, self.one("Deployment")["spec"]["template"]["metadata"]["labels"])
        for kind, name in (("Deployment", "x509proxy"), ("PodDisruptionBudget", "x509proxy")):
            self.assertEqual({"matchLabels": NAME}, self.one(kind, name)["spec"]["selector"])
        for name in ("x509proxy", "x509proxy-admin"):
            self.assertEqual(NAME, self.one("Service", name)["spec"]["selector"])
        for constraint in self.pods["topologySpreadConstraints"]:
            self.assertEqual({"matchLabels": NAME}, constraint["labelSelector"])


class Ports(ManifestStage):
    def test_admin(self) -> None:
        """Probes use the admin listener, and the Service that clients reach does not lead there."""
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.assertEqual({"tls": 8443, "admin": 9443}, ports)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertEqual("admin", self.container[probe]["httpGet"]["port"])
        self.assertEqual(
            ["tls"], [port["targetPort"] for port in self.one("Service")["spec"]["ports"]]
        )
        self.assertEqual(
            ["admin"],
            [
                port["targetPort"]
                for port in self.one("Service", "x509proxy-admin")["spec"]["ports"]
            ],
        )

    def test_policies(self) -> None:
        """Only the proxy reaches the server, only the balancer the proxy."""
        server, proxy = (
            self.one("NetworkPolicy", name)["spec"]
            for name in ("authorization-server", "x509proxy")
        )
        (rule,) = server["ingress"]
        self.assertEqual([{"podSelector": {"matchLabels": NAME}}], rule["from"])
        self.assertEqual(
            {"matchLabels": {"app.kubernetes.io/name": "authorization-server"}},
            server["podSelector"],
        )
        self.assertEqual({"matchLabels": NAME}, proxy["podSelector"])
        self.assertEqual({"Ingress", "Egress"}, set(proxy["policyTypes"]))
        rules = {rule["ports"][0]["port"]: rule["from"] for rule in proxy["ingress"]}
        self.assertEqual({"tls", "admin"}, set(rules))
        self.assertEqual([["ipBlock"]], [list(who) for who in rules["tls"]])
        self.assertEqual(
            [["namespaceSelector", "podSelector"]], [list(who) for who in rules["admin"]]
        )
        (to, _) = proxy["egress"]
        self.assertEqual([{"podSelector": server["podSelector"]}], to["to"])
        self.assertEqual(rule["ports"], to["ports"])


class Configuration(ManifestStage):
    def test_files(self) -> None:
        """The configuration names files of mounted folders, by the keys of the template."""
        settings = load_settings(str(BASE / "x509proxy.toml"))
        named = {
            settings.certificate,
            settings.private_key,
            settings.header_file,
            settings.upstream.ca,
        }
        folders = {mount["mountPath"]: mount for mount in self.container["volumeMounts"]}
        self.assertEqual({True}, {mount["readOnly"] for mount in folders.values()})
        self.assertLessEqual({str(Path(str(path)).parent) for path in named}, set(folders))
        self.assertEqual(
            {"tls.crt", "tls.key", "header.txt", "ca.crt"}, {Path(str(path)).name for path in named}
        )

    def test_loads(self) -> None:
        """It is right, and nothing in it is worth a warning but that the admin listener is open."""
        server = self.server_files()
        files = {
            "certificate": str(server),
            "private_key": f"{self.folder}/server.key",
            "header_file": f"{self.folder}/header.txt",
        }
        text = (
            (BASE / "x509proxy.toml")
            .read_text()
            .replace("/etc/x509proxy-upstream/ca.crt", str(server))
        )
        settings = override(load_settings(str(self.write("x509proxy.toml", text))), files)
        assert settings.admin is not None
        self.assertEqual(("tcp:9443", True), (settings.admin.listen, settings.admin.allow_remote))
        self.assertIsNotNone(settings.health, "a pod that is not ready would never be ready again")
        self.assertEqual(
            [],
            [
                warning
                for warning in load_configuration(settings).warnings
                if "admin" not in warning
            ],
        )


# The interpreter may lie where only root gets, so the rights are dropped once everything is
# imported.
_READ = """
import os, sys
from x509proxy.forwarding.secret_name import read_header_names
from x509proxy.settings import SettingsError
user, group, *groups = map(int, sys.argv[1:])
os.setgroups(groups)
os.setgid(group)
os.setuid(user)
try:
    print(len(read_header_names("header.txt")))
except SettingsError as error:
    print(error)
"""


class SecretVolumes(ManifestStage):
    def read_as_pod(self, mode: int, group: int, *groups: int) -> str:
        """Read the header's name as the pods' user, with a file as a kubelet writes it."""
        if os.geteuid() != 0:
            self.skipTest("only root can write another group's files")
        self.server_files()
        path = self.folder / "header.txt"
        path.chmod(mode)
        os.chown(path, 0, group)
        self.folder.chmod(0o755)
        context = self.pods["securityContext"]
        ids = [context["runAsUser"], context["runAsGroup"], *context["supplementalGroups"], *groups]
        command = [sys.executable, "-c", _READ, *map(str, ids)]
        environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).decode().strip()

    def test_as_shipped(self) -> None:
        """The pods' user reads a Secret as mounted: root's, this mode, and no fsGroup."""
        modes = {
            volume["secret"]["defaultMode"] for volume in self.pods["volumes"] if "secret" in volume
        }
        self.assertEqual({0o440}, modes)
        self.assertNotIn("fsGroup", self.pods["securityContext"])
        self.assertEqual("1", self.read_as_pod(0o440, 0))

    def test_other_group(self) -> None:
        """With an fsGroup the file is the group's, and is rejected, as each such key is."""
        group = USER + 1
        self.assertIn("found mode 0440, expected 0600", self.read_as_pod(0o440, group, group))

    def test_private_to_root(self) -> None:
        """With 0400 it cannot be read at all."""
        self.assertIn("cannot be read: Permission denied", self.read_as_pod(0o400, 0))
