package example;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.message.MessageReader;
import io.cloudevents.types.Time;
import java.io.IOException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Supplier;
import org.sqlite.SQLiteConfig;

/** Handles every event once: the work and the event's source and id are one transaction. */
final class Inbox implements AutoCloseable {
    private static final String[] SCHEMA = {
        "CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, attributes TEXT, key TEXT, headers TEXT, data BLOB,"
            + " position TEXT, PRIMARY KEY (source, id))",
        "CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, events INTEGER)",
        "CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, events INTEGER, merged_into TEXT)",
        "CREATE TABLE IF NOT EXISTS set_aside (position TEXT PRIMARY KEY, reason TEXT, value BLOB)",
    };
    private static final ObjectMapper JSON = new ObjectMapper();

    /**
     * What the client read.
     *
     * @param position topic/partition/offset or stream/sequence
     * @param key the key, or the subject
     */
    record Message(String position, String key, Map<String, String> headers, byte[] value, boolean structured) {}

    interface Consume {
        void whileTrue(AtomicBoolean running, Inbox inbox) throws Exception;
    }

    private final Connection database;

    /** Creates the database if it is missing. Another process may hold it for up to a minute. */
    private Inbox(String path) throws SQLException {
        var config = new SQLiteConfig();
        config.setBusyTimeout(60_000);
        config.setJournalMode(SQLiteConfig.JournalMode.WAL);
        config.setTransactionMode(SQLiteConfig.TransactionMode.IMMEDIATE);
        database = DriverManager.getConnection("jdbc:sqlite:" + path, config.toProperties());
        for (var table : SCHEMA) update(table);
    }

    @Override
    public void close() throws SQLException {
        database.close();
    }

    /** Opens the database and consumes until SIGTERM or SIGINT. */
    static void run(Consume consume) {
        var running = new AtomicBoolean(true);
        var status = new CompletableFuture<Integer>();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            running.set(false);
            Runtime.getRuntime().halt(status.join()); // without it a signal makes the status 143
        }));
        try (var inbox = new Inbox(setting("INBOX", "inbox.db"))) {
            consume.whileTrue(running, inbox);
            status.complete(0);
        } catch (Throwable error) { // an Error too: the hook waits for the status
            error.printStackTrace();
            status.complete(1);
        }
    }

    static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }

    /** Does the work of an event that is new, and sets aside what is no event. Acknowledge the message after it. */
    void take(Message message, Supplier<MessageReader> reader) throws SQLException {
        database.setAutoCommit(false); // begins
        try {
            CloudEvent event;
            String attributes;
            byte[] data;
            try {
                event = checked(reader.get().toEvent());
                attributes = json(attributes(event));
                data = message.structured ? data(message.value) : message.value;
            } catch (RuntimeException | IOException reason) { // whatever the SDK throws at what is no event
                System.err.println(message.position + " set aside: " + reason);
                update("INSERT INTO set_aside VALUES (?, ?, ?) ON CONFLICT DO NOTHING", message.position,
                    reason.toString(), message.value);
                return;
            }
            var isNew = update("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                event.getSource().toString(), event.getId(), attributes, message.key,
                json(message.headers), data, message.position) == 1;
            if (isNew) work(event, data);
            System.err.println(message.position + " " + event.getType() + " " + event.getId() + " new=" + isNew);
        } catch (SQLException | RuntimeException failure) {
            database.rollback();
            throw failure;
        } finally {
            database.setAutoCommit(true); // commits. `commit` would begin anew, and keep the write lock while idle
        }
    }

    /**
     * Stands for what your consumer does: counts the events of each type and of each record. A record that was merged
     * into another counts there, also when its events come after the merge.
     */
    private void work(CloudEvent event, byte[] data) throws SQLException {
        update("INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1", event.getType());
        if (!event.getType().startsWith("com.attio.record.")) return;
        if (!(event.getExtension("partitionkey") instanceof String record)) return;
        record = survivor(record);
        update("INSERT INTO record VALUES (?, 1, NULL) ON CONFLICT DO UPDATE SET events = events + 1", record);
        var duplicate = event.getType().equals("com.attio.record.merged") ? duplicate(data) : null;
        if (duplicate == null || duplicate.equals(record)) return;
        update("INSERT INTO record VALUES (?, 0, NULL) ON CONFLICT DO NOTHING", duplicate);
        update("UPDATE record SET events = events + (SELECT events FROM record WHERE id = ?) WHERE id = ?", duplicate,
            record);
        update("UPDATE record SET events = 0 WHERE id = ?", duplicate);
        update("UPDATE record SET merged_into = ? WHERE id = ? OR merged_into = ?", record, duplicate, duplicate);
    }

    private String survivor(String record) throws SQLException {
        var query = "SELECT merged_into FROM record WHERE id = ? AND merged_into IS NOT NULL";
        try (var statement = database.prepareStatement(query)) {
            statement.setString(1, record);
            try (var rows = statement.executeQuery()) {
                return rows.next() ? rows.getString(1) : record;
            }
        }
    }

    private static String duplicate(byte[] data) {
        try {
            return JSON.readTree(data).path("duplicate_record_id").textValue();
        } catch (IOException noMerge) {
            return null;
        }
    }

    /** The SDK takes empty attributes. */
    private static CloudEvent checked(CloudEvent event) {
        if (event.getId().isEmpty() || event.getSource().toString().isEmpty() || event.getType().isEmpty())
            throw new IllegalArgumentException("empty id, source or type");
        return event;
    }

    /** The bytes of `data`. The SDK's own are written again: without a long number's digits, among others. */
    private static byte[] data(byte[] value) throws IOException {
        try (var parser = new JsonFactory().createParser(value)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                var isData = parser.currentName().equals("data");
                parser.nextToken();
                var start = (int) parser.currentTokenLocation().getByteOffset();
                parser.skipChildren();
                parser.finishToken();
                if (isData) return Arrays.copyOfRange(value, start, (int) parser.currentLocation().getByteOffset());
            }
            return new byte[0];
        }
    }

    private static Map<String, String> attributes(CloudEvent event) {
        var attributes = new TreeMap<String, String>();
        for (var name : event.getAttributeNames()) {
            var value = event.getAttribute(name);
            // `toString` leaves out seconds that are zero, which RFC 3339 does not allow.
            var text = value instanceof OffsetDateTime time ? Time.writeTime(time) : String.valueOf(value);
            if (value != null) attributes.put(name, text);
        }
        for (var name : event.getExtensionNames()) attributes.put(name, event.getExtension(name).toString());
        return attributes;
    }

    private static String json(Map<String, String> map) {
        return JSON.valueToTree(map).toString();
    }

    private int update(String sql, Object... values) throws SQLException {
        try (var statement = database.prepareStatement(sql)) {
            for (var at = 0; at < values.length; at++) statement.setObject(at + 1, values[at]);
            return statement.executeUpdate();
        }
    }
}
