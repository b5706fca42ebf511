"""Prometheus and Alertmanager with the rules of deploy/alerts.yaml, and the pager that they call."""

import http.server
import json
import re
import threading
import time

from programs import REPOSITORY, Program, free_ports, get, wait_for

SECONDS = {"s": 1, "m": 60, "h": 3600}
SHORTER = 20


def shortened(rules):
    """The rules with every time so many times shorter."""

    def shorter(found):
        return f"{found[1]}{max(1, int(found[2]) * SECONDS[found[3]] // SHORTER)}s{found[4]}"

    return re.sub(r"(\bfor: |\[)(\d+)([smh])(\]|)", shorter, rules)


class Pager:
    """Receives Alertmanager's notifications."""

    def __init__(self, say):
        self.say = say
        self.firing, self.fired, self.lock = set(), {}, threading.Lock()
        self.alerts = None  # What Prometheus has, as an address.
        pager = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()
                for alert in body["alerts"]:
                    pager.notify(alert)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def notify(self, alert):
        labels = alert["labels"]
        key = tuple(sorted(labels.items()))
        with self.lock:
            if alert["status"] == "firing" and key not in self.firing:
                self.firing.add(key)
                self.fired.setdefault(labels["alertname"], time.monotonic())
                self.say("fires", f"{labels['alertname']} ({labels['severity']}): {alert['annotations']['summary']}")
            elif alert["status"] == "resolved" and key in self.firing:
                self.firing.remove(key)
                self.say("clears", labels["alertname"])

    def wait_for(self, names):
        """Waits until each of these has fired since the last take."""
        wait_for(f"fired: {', '.join(names)}", lambda: self.fired.keys() >= set(names))

    def take_fired(self):
        """The alerts that have fired since the last take, each with the time of the first."""
        with self.lock:
            fired, self.fired = self.fired, {}
        return fired

    def is_quiet(self):
        """Whether nothing fires, and nothing waits to fire or to be told."""
        answer = get(self.alerts)
        return answer is not None and not json.loads(answer)["data"]["alerts"] and not self.firing

    def wait_for_quiet(self):
        wait_for("no alert fires or is pending", self.is_quiet)


def start(folder, kit, bridges, pager):
    """Returns once Prometheus has scraped every bridge."""
    alerting, prometheus = free_ports(2)
    (folder / "alerts.yaml").write_text(shortened((REPOSITORY / "deploy/alerts.yaml").read_text()))
    targets = [f"127.0.0.1:{bridge.admin}" for bridge in bridges]
    (folder / "prometheus.yaml").write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerting}"]}]}]},
        "scrape_configs": [{"job_name": "attio-bridge", "static_configs": [{"targets": targets}]}],
    }))
    (folder / "alertmanager.yaml").write_text(json.dumps({
        "route": {"receiver": "pager", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"},
        "receivers": [{
            "name": "pager",
            "webhook_configs": [{"url": f"http://127.0.0.1:{pager.server.server_port}/", "send_resolved": True}],
        }],
    }))
    commands = {
        "alertmanager": [
            f"{kit}/alertmanager/usr/bin/prometheus-alertmanager",
            f"--config.file={folder}/alertmanager.yaml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{alerting}",
            "--cluster.listen-address=",
        ],
        "prometheus": [
            f"{kit}/prometheus",
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus}",
            "--rules.alert.resend-delay=1s",
        ],
    }
    for name, command in commands.items():
        Program(command, folder / f"{name}.log").start()
    wait_for("Alertmanager is ready", lambda: get(f"http://127.0.0.1:{alerting}/-/ready"))

    def scraped():
        answer = get(f"http://127.0.0.1:{prometheus}/api/v1/query?query=sum(up)") or b"{}"
        found = json.loads(answer).get("data", {}).get("result", [])
        return found and float(found[0]["value"][1]) == len(bridges)

    wait_for("Prometheus scrapes every bridge", scraped)
    pager.alerts = f"http://127.0.0.1:{prometheus}/api/v1/alerts"
