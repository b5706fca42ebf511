"""The programs of the rehearsal: each is started, killed and stopped by this process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).parents[2]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(what, done, seconds=600):
    deadline = time.monotonic() + seconds
    while True:
        result = done()
        if result:
            return result
        if time.monotonic() > deadline:
            raise SystemExit(f"after {seconds} s still not: {what}")
        time.sleep(0.2)


def get(url):
    """The body of a 200, else None."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return None


class Disk:
    """A small file system that can be filled up."""

    def __init__(self, path, megabytes):
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)], check=True)

    def fill(self):
        with open(self.path / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def free(self):
        (self.path / "filler").unlink()


class Program:
    """A child process; its output goes to a file."""

    def __init__(self, command, output):
        self.command = [str(part) for part in command]
        self.output = output
        self.process = None

    def start(self):
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=120):
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


class Kafka:
    """Three nodes, each on a disk of its own: replication 3, two of which must have a message."""

    def __init__(self, folder, kit):
        ports = free_ports(6)
        clients, controllers = ports[:3], ports[3:]
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in clients)
        self.disks, self.nodes = [], []
        voters = ",".join(f"{at + 1}@127.0.0.1:{port}" for at, port in enumerate(controllers))
        for at in range(3):
            disk = Disk(folder / f"kafka-{at + 1}", 192)
            properties = folder / f"kafka-{at + 1}.properties"
            properties.write_text(f"""\
process.roles=broker,controller
node.id={at + 1}
listeners=PLAIN://127.0.0.1:{clients[at]},CTRL://127.0.0.1:{controllers[at]}
advertised.listeners=PLAIN://127.0.0.1:{clients[at]}
listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CTRL
controller.quorum.voters={voters}
log.dirs={disk.path}/data
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=16777216
log.index.size.max.bytes=1048576
""")
            java = ["java", "-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
            java += [f"-XX:SharedArchiveFile={kit}/kafka.jsa", f"-Dlog4j2.configurationFile={kit}/log4j2.properties"]
            java += [f"-Dkit.log={folder}/kafka-{at + 1}.log", "-cp", f"{kit}/jars/*"]
            tool = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(properties)]
            subprocess.run(java + tool, check=True, stdout=subprocess.DEVNULL)
            self.disks.append(disk)
            self.nodes.append(Program(java + ["kafka.Kafka", properties], folder / f"kafka-{at + 1}.out"))

    def read(self, topic):
        """The CloudEvents of a topic."""
        command = ["kcat", "-C", "-q", "-b", self.bootstrap, "-t", topic, "-o", "beginning", "-e", "-f", "%s\\n"]
        output = subprocess.run(command, check=True, capture_output=True).stdout
        return [json.loads(line) for line in output.splitlines()]


class Bridge(Program):
    """One replica. Its log is on a disk of its own."""

    def __init__(self, at, program, config, folder):
        self.http, self.admin = free_ports(2)
        self.disk = Disk(folder / f"bridge-{at}", 8)
        command = [program, "serve", "--config", config]
        command += ["--listen", f"127.0.0.1:{self.http}", "--admin-listen", f"127.0.0.1:{self.admin}"]
        super().__init__(command, self.disk.path / "log.json")

    def is_ready(self):
        return get(f"http://127.0.0.1:{self.admin}/readyz") is not None

    def metric(self, sample):
        metrics = wait_for("it answers", lambda: get(f"http://127.0.0.1:{self.admin}/metrics")).decode()
        values = [line.removeprefix(f"{sample} ") for line in metrics.splitlines() if line.startswith(f"{sample} ")]
        return sum(map(float, values))

    def accepted(self):
        """Deliveries that it has answered 200."""
        return self.metric('attio_bridge_deliveries_total{reason="accepted",source="attio"}')

    def reloads(self):
        return self.metric('attio_bridge_config_reloads_total{result="ok"}')


def haproxy(folder, port, bridges):
    servers = "\n".join(
        f"    server bridge{at} 127.0.0.1:{bridge.http} check port {bridge.admin} inter 500ms fall 2 rise 1"
        for at, bridge in enumerate(bridges)
    )
    (folder / "haproxy.cfg").write_text(f"""\
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 30s
    timeout check 5s
    option redispatch
frontend webhooks
    bind 127.0.0.1:{port}
    default_backend bridge
backend bridge
    option httpchk GET /readyz
{servers}
""")
    path = f"/usr/sbin:{os.environ['PATH']}"
    program = subprocess.run(["which", "haproxy"], env={"PATH": path}, check=True, capture_output=True, text=True)
    return Program([program.stdout.strip(), "-db", "-f", folder / "haproxy.cfg"], folder / "haproxy.log")
