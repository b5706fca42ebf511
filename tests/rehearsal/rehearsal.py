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
begun = time.monotonic()


def say(kind, text):
    print(f"{time.monotonic() - begun:6.1f} s  {kind:8} {text}", flush=True)


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
[shutdown]
delay = "3s"
[log]
format = "json"
""")
    new.rename(path)


class Shift:
    def __init__(self, folder, program, kit):
        self.failures = []
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
        self.pager.fired.clear()
        self.traffic = Traffic(port, self.secret_files[0].read_text(), PER_SECOND)
        say("start", f"3 Kafka nodes, 3 bridges, HAProxy, Prometheus, Alertmanager; {PER_SECOND} deliveries a second")

    def expect(self, condition, text):
        if not condition:
            self.failures.append(text)
            say("FAILED", text)

    def recovered(self, expected):
        """Waits for the end of a scene; only these alerts may have fired in it."""
        wait_for("every delivery is acknowledged", lambda: self.traffic.waiting() < PER_SECOND)
        self.pager.wait_for_quiet()
        fired = set(self.pager.fired)
        self.pager.fired.clear()
        self.expect(fired == set(expected), f"fired: {sorted(fired)}, expected: {sorted(expected)}")
        counts = self.traffic.since()
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(counts.items(), key=str))
        say("answers", f"since the scene before: {answers}")
        return counts

    def calm(self):
        time.sleep(10)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "every delivery is answered 200 at once")

    def outage(self):
        say("fault", "all three brokers are killed")
        for node in self.kafka.nodes:
            node.kill()
        alerts = ["AttioBridgeBusDown", "AttioBridgeUnavailable"]
        self.pager.wait_for(alerts)
        say("remedy", "the brokers are started again")
        for node in self.kafka.nodes:
            node.start()
        counts = self.recovered(alerts)
        self.expect(503 in counts, "deliveries are answered 503 without a broker")

    def rotated_secret(self):
        say("fault", "Attio signs with a new secret that the bridges do not have")
        self.traffic.secret = self.secret_files[1].read_text()
        self.pager.wait_for(["AttioBridgeSignatureFailures"])
        say("remedy", "the new secret is added to the configuration")
        configure(self.config, self.kafka, self.secret_files)
        counts = self.recovered(["AttioBridgeSignatureFailures"])
        self.expect(401 in counts, "the unknown signature is answered 401")
        say("remedy", "the old secret is removed")
        configure(self.config, self.kafka, self.secret_files[1:])
        time.sleep(5)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "the new secret alone is enough")

    def rolling_restart(self):
        for at, bridge in enumerate(self.bridges, start=1):
            say("restart", f"bridge {at} gets SIGTERM")
            code = bridge.stop()
            self.expect(code == 0, f"bridge {at} ended with {code}")
            bridge.start()
            wait_for("the bridge is ready again", bridge.is_ready)
            time.sleep(2)
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "a rolling restart shows no sender an error")

    def full_disk_of_a_bridge(self):
        bridge = self.bridges[0]
        say("fault", "the disk with the log of bridge 1 is full")
        bridge.disk.fill()
        before = bridge.accepted()
        time.sleep(8)
        after = bridge.accepted()
        self.expect(after > before, f"bridge 1 goes on: {before:.0f} deliveries accepted, then {after:.0f}")
        bridge.disk.free()
        counts = self.recovered([])
        self.expect(set(counts) == {200}, "a full disk of a log shows no sender an error")

    def full_disk_of_brokers(self):
        say("fault", "the disks of two brokers are full")
        for disk in self.kafka.disks[1:]:
            disk.fill()
        self.pager.wait_for(["AttioBridgeUnavailable"])
        say("remedy", "the disks have room again, and the two brokers are restarted")
        for disk, node in zip(self.kafka.disks[1:], self.kafka.nodes[1:]):
            disk.free()
            if node.process.poll() is None:
                node.kill()
            node.start()
        self.recovered(["AttioBridgeUnavailable"])

    def reckoning(self):
        """Compares the ledger with the topic."""
        self.traffic.running = False
        wait_for("every delivery is acknowledged", lambda: self.traffic.waiting() == 0)
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
    say("end", "as expected" if not shift.failures else f"{len(shift.failures)} not as expected")
    return bool(shift.failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
