package example;

import io.cloudevents.SpecVersion;
import io.cloudevents.core.data.BytesCloudEventData;
import io.cloudevents.core.message.MessageReader;
import io.cloudevents.core.message.impl.BaseGenericBinaryMessageReaderImpl;
import io.cloudevents.core.message.impl.GenericStructuredMessageReader;
import io.cloudevents.core.message.impl.MessageUtils;
import io.nats.client.ConsumeOptions;
import io.nats.client.Message;
import io.nats.client.Options;
import io.nats.client.api.ConsumerConfiguration;
import io.nats.client.support.Encoding;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BiConsumer;

/** Handles every event on JetStream once: acknowledges after the event's transaction. */
final class Nats {
    public static void main(String[] arguments) {
        Inbox.run(Nats::consume);
    }

    private static void consume(AtomicBoolean running, Inbox inbox) throws Exception {
        var url = Inbox.setting("NATS_URL", "nats://127.0.0.1:4222");
        var config = ConsumerConfiguration.builder()
            .durable(Inbox.setting("NATS_DURABLE", "example"))
            .filterSubjects("attio.*.*", "attio.unknown") // every category, without quarantine
            .ackWait(Duration.ofSeconds(10)) // what is not acknowledged comes again after this time
            .build();
        var options = Options.builder().server(url).maxReconnects(-1).build();
        try (var connection = io.nats.client.Nats.connect(options)) {
            var stream = connection.getStreamContext(Inbox.setting("NATS_STREAM", "ATTIO"));
            var batch = ConsumeOptions.builder().batchSize(10).build(); // what the work finishes within ackWait
            try (var messages = stream.createOrUpdateConsumer(config).iterate(batch)) {
                while (running.get()) {
                    var received = messages.nextMessage(Duration.ofMillis(500));
                    if (received == null) continue;
                    var headers = headers(received);
                    inbox.take(message(received, headers), () -> reader(headers, received.getData()));
                    received.ack();
                }
            }
            connection.flush(Duration.ofSeconds(5));
        }
    }

    private static Map<String, String> headers(Message received) {
        var headers = new HashMap<String, String>();
        if (received.hasHeaders()) received.getHeaders().forEach((name, values) -> headers.put(name, values.get(0)));
        return headers;
    }

    private static Inbox.Message message(Message received, Map<String, String> headers) {
        var position = received.metaData().getStream() + "/" + received.metaData().streamSequence();
        var structured = !headers.containsKey("ce-id");
        return new Inbox.Message(position, received.getSubject(), headers, received.getData(), structured);
    }

    /** The SDK has no NATS binding: this is one. */
    private static MessageReader reader(Map<String, String> headers, byte[] value) {
        return MessageUtils.parseStructuredOrBinaryMessage(
            () -> headers.get("Content-Type"),
            format -> new GenericStructuredMessageReader(format, value),
            () -> headers.get("ce-specversion"),
            version -> new BinaryReader(version, headers, value));
    }

    private static final class BinaryReader extends BaseGenericBinaryMessageReaderImpl<String, String> {
        private final Map<String, String> headers;

        BinaryReader(SpecVersion version, Map<String, String> headers, byte[] value) {
            super(version, BytesCloudEventData.wrap(value));
            this.headers = headers;
        }

        @Override protected boolean isContentTypeHeader(String name) { return false; }
        @Override protected boolean isCloudEventsHeader(String name) { return name.startsWith("ce-"); }
        @Override protected String toCloudEventsKey(String name) { return name.substring("ce-".length()); }
        @Override protected String toCloudEventsValue(String value) { return Encoding.uriDecode(value); }
        @Override protected void forEachHeader(BiConsumer<String, String> each) { headers.forEach(each); }
    }
}
