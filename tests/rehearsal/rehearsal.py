"""The shift: faults, what the pager says, and the reckoning."""

import collections
import pathlib
import secrets
import shutil
import sys
import time

import monitoring
from programs import Bridge, Kafka, free_ports, haproxy, wait_for
from traffic import Traffic

PER_SECOND = 50
# An hour of this alert is three minutes here, so that rebuilds of different outages add up.
OF_OUTAGES = ["AttioBridgeClientRebuilt"]
begun = time.monotonic()
timeline = []


def say(kind, text):
    """Prints one line of the timeline; the same text within a second, such as an alert of each bridge, once."""
    now = time.monotonic() - begun
    if not any((kind, text) == line[1:] and now - line[0] < 1 for line in timeline):
        timeline.append((now, kind, text))
        print(f"{now:6.1f} s  {kind:8} {text}", flush=True)


def configure(path, kafka, files):
    """Writes the configuration with these secrets, all at once as Kubernetes does."""
    listed = ", ".join(f'{{ label = "{file.stem}", file = "{file}" }}' for file in files)
    new = path.with_suffix(".new")
    new.write_text(f"""\
[sources.attio]
secrets = [{listed}]
[bus]
type = "kafka"
[kafka]
bootstrap_servers = "{kafka.bootstrap}"
[kafka.topics]
ensure = "create"
partitions = 3
replication_factor = 3
min_insync_replicas = 2
# Longer than Attio waits, so that a busy machine is no outage.
[http]
answer_timeout = "10s"
body_timeout = "8s"
[shutdown]
delay = "5s"
[log]
format = "json"
""")
    new.rename(path)


class Shift:
    def __init__(self, folder, program, kit):
        self.failures, self.scenes = [], []
        self.secret_files = [folder / "old", folder / "new"]
        for file in self.secret_files:
            file.write_text(secrets.token_hex(32))
        self.kafka = Kafka(folder, kit)
        self.config = folder / "config.toml"
        configure(self.config, self.kafka, self.secret_files[:1])
        for node in self.kafka.nodes:
            node.start()
        self.bridges = [Bridge(at, program, self.config, folder) for at in range(3)]
        for bridge in self.bridges:
            bridge.start()
        for bridge in self.bridges:
            wait_for("the bridge is ready", bridge.is_ready)
        port, = free_ports(1)
        haproxy(folder, port, self.bridges).start()
        self.pager = monitoring.Pager(say)
        monitoring.start(folder, kit, self.bridges, self.pager)
        # Nothing was scraped while the programs started.
        self.pager.wait_for_quiet()
        self.pager.take_fired()
        self.traffic = Traffic(port, self.secret_files[0].read_text(), PER_SECOND)
        say("start", f"3 Kafka nodes, 3 bridges, HAProxy, Prometheus, Alertmanager; {PER_SECOND} deliveries a second")

    def expect(self, condition, text):
        if not condition:
            self.failures.append(text)
            say("FAILED", text)

    def begin(self, kind, text):
        """Begins a scene."""
        say(kind, text)
        self.scene, self.begun = text, time.monotonic()

    def acknowledged(self, count):
        """Waits for so many more acknowledged deliveries."""
        goal = self.traffic.acknowledged + count
        wait_for(f"{count} more deliveries are acknowledged", lambda: self.traffic.acknowledged >= goal)

    def reload(self, files):
        """Configures these secrets; returns once every bridge uses them."""
        before = [bridge.reloads() for bridge in self.bridges]
        configure(self.config, self.kafka, files)
        for bridge, count in zip(self.bridges, before):
            wait_for("the bridge has reloaded", lambda: bridge.reloads() > count)

    def recovered(self, expected, possible=()):
        """Ends a scene once all is well: each expected alert has fired in it, and no others but the possible ones."""
        self.traffic.wait_for_all()
        self.pager.wait_for_quiet()
        fired = self.pager.take_fired()
        self.expect(
            set(expected) <= set(fired) <= {*expected, *possible}, f"fired: {[*fired]}, expected: {expected}"
        )
        counts = self.traffic.since()
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(counts.items(), key=str))
        alerts = ", ".join(f"{name} after {at - self.begun:.0f} s" for name, at in fired.items())
        say("quiet", f"every delivery so far is acknowledged, no alert fires; answers: {answers}")
        self.scenes.append((self.scene, alerts or "none", f"{time.monotonic() - self.begun:.0f} s", answers))
        return counts

    def calm(self):
        self.begin("calm", "nothing happens")
        self.acknowledged(10 * PER_SECOND)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "every delivery is answered 200 at once")

    def outage(self):
        self.begin("fault", "all three brokers are killed")
        for node in self.kafka.nodes:
            node.kill()
        alerts = ["AttioBridgeBusDown", "AttioBridgeUnavailable"]
        self.pager.wait_for(alerts)
        say("remedy", "the brokers are started again")
        for node in self.kafka.nodes:
            node.start()
        counts = self.recovered(alerts, possible=OF_OUTAGES)
        self.expect(503 in counts, "deliveries are answered 503 without a broker")

    def rotated_secret(self):
        self.begin("fault", "Attio signs with a new secret that the bridges do not have")
        self.traffic.secret = self.secret_files[1].read_text()
        self.pager.wait_for(["AttioBridgeSignatureFailures"])
        say("remedy", "the new secret is added to the configuration")
        self.reload(self.secret_files)
        counts = self.recovered(["AttioBridgeSignatureFailures"])
        self.expect(401 in counts, "the unknown signature is answered 401")
        self.begin("change", "the old secret is removed from the configuration")
        self.reload(self.secret_files[1:])
        self.acknowledged(5 * PER_SECOND)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "the new secret alone is enough")

    def rolling_restart(self):
        self.begin("change", "the bridges are restarted one by one")
        for at, bridge in enumerate(self.bridges, start=1):
            say("restart", f"bridge {at} gets SIGTERM")
            code = bridge.stop()
            self.expect(code == 0, f"bridge {at} ended with {code}")
            bridge.start()
            wait_for("the bridge accepts deliveries again", lambda: bridge.accepted() > 0)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "a rolling restart shows no sender an error")

    def full_disk_of_a_bridge(self):
        bridge = self.bridges[0]
        self.begin("fault", "the disk with the log of bridge 1 is full")
        bridge.disk.fill()
        goal = bridge.accepted() + 2 * PER_SECOND
        wait_for("bridge 1 goes on accepting", lambda: bridge.accepted() >= goal)
        bridge.disk.free()
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "a full disk of a log shows no sender an error")

    def full_disk_of_brokers(self):
        self.begin("fault", "the disks of two brokers are full")
        for disk in self.kafka.disks[1:]:
            disk.fill()
        self.pager.wait_for(["AttioBridgeUnavailable"])
        say("remedy", "the disks have room again, and the two brokers are restarted")
        for disk, node in zip(self.kafka.disks[1:], self.kafka.nodes[1:]):
            disk.free()
            if node.process.poll() is None:
                node.kill()
            node.start()
        # One broker is there all the time, but no controller: whether the bus counts as up depends on what is asked.
        self.recovered(["AttioBridgeUnavailable"], possible=[*OF_OUTAGES, "AttioBridgeBusDown"])

    def reckoning(self):
        """Compares the ledger with the topic."""
        self.traffic.running = False
        self.traffic.wait_for_all()
        deliveries = {delivery.id: delivery for delivery in self.traffic.deliveries}
        stored = collections.Counter(event["id"] for event in self.kafka.read("attio.record"))
        lost = set(deliveries) - set(stored)
        unknown = set(stored) - set(deliveries)
        twice = [id for id, count in stored.items() if count > 1]
        unexplained = [id for id in twice if deliveries[id].answers == [200]]
        attempts = sum(len(delivery.answers) for delivery in deliveries.values())
        say("topic", f"{len(deliveries)} events acknowledged in {attempts} attempts, {len(lost)} lost, "
            f"{len(twice)} stored twice ({len(unexplained)} of them without a failed attempt), {len(unknown)} unknown")
        self.expect(not lost, f"lost: {sorted(lost)[:3]}")
        self.expect(not unexplained and not unknown, "every stored event is explained")


def main(folder, program, kit):
    shift = Shift(pathlib.Path(folder).resolve(), pathlib.Path(program).resolve(), pathlib.Path(kit))
    try:
        for scene in (shift.calm, shift.outage, shift.rotated_secret, shift.rolling_restart,
                      shift.full_disk_of_a_bridge, shift.full_disk_of_brokers, shift.reckoning):
            scene()
    finally:
        for bridge in shift.bridges:
            shutil.copy(bridge.output, f"{bridge.disk.path}.json")
    print("\n| scene | alerts | all quiet after | answers |\n|---|---|---|---|")
    for row in shift.scenes:
        print(f"| {' | '.join(row)} |")
    say("end", "as expected" if not shift.failures else f"{len(shift.failures)} not as expected")
    return bool(shift.failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
