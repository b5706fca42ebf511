#!/bin/sh
# With `transaction_mode=IMMEDIATE`, a JDBC connection to SQLite holds the write lock between its transactions.
#
# Version    org.xerial:sqlite-jdbc 3.50.3.0
# Expected   `commit()` ends the transaction, and the next one begins with the next statement, as JDBC drivers do: an idle
#            connection blocks nobody.
# Observed   `commit()`, `rollback()` and `setAutoCommit(false)` begin the next transaction themselves. In the default mode,
#            DEFERRED, that takes no lock. In the mode IMMEDIATE, which avoids SQLITE_BUSY in the middle of a transaction, it
#            takes the write lock: while a consumer waits for its next message, every other writer gets SQLITE_BUSY, however
#            long its timeout. Only `setAutoCommit(true)` commits without beginning anew.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs a JDK (17 or newer) and mvn.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for artifact in org.xerial:sqlite-jdbc:3.50.3.0 org.slf4j:slf4j-api:1.7.36 org.slf4j:slf4j-nop:1.7.36; do
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="$artifact" -DoutputDirectory="$work/lib"
done
cat >"$work/Locks.java" <<'JAVA'
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;

class Locks {
    static Connection open(String file, String settings) throws SQLException {
        return DriverManager.getConnection("jdbc:sqlite:" + file + "?busy_timeout=300&" + settings);
    }

    static String write(Connection connection) {
        try (var statement = connection.createStatement()) {
            statement.executeUpdate("INSERT INTO t VALUES (1)");
            return "writes";
        } catch (SQLException error) {
            return error.getMessage().replaceAll("^\\[(\\w+)].*", "$1");
        }
    }

    public static void main(String[] arguments) throws SQLException {
        for (var mode : new String[] {"DEFERRED", "IMMEDIATE"}) {
            var file = arguments[0] + "/" + mode + ".db";
            try (var first = open(file, "transaction_mode=" + mode); var second = open(file, "")) {
                first.createStatement().execute("CREATE TABLE t (a)");
                first.setAutoCommit(false);
                write(first);
                first.commit();
                System.out.println(mode + ", after commit: the other connection: " + write(second));
                first.setAutoCommit(true);
                System.out.println(mode + ", after setAutoCommit(true): the other connection: " + write(second));
            }
        }
    }
}
JAVA
observed=$(java -cp "$work/lib/*" "$work/Locks.java" "$work")
printf '%s\n' "$observed"

expected='DEFERRED, after commit: the other connection: writes
DEFERRED, after setAutoCommit(true): the other connection: writes
IMMEDIATE, after commit: the other connection: SQLITE_BUSY
IMMEDIATE, after setAutoCommit(true): the other connection: writes'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
