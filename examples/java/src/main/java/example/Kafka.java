package example;

import static java.nio.charset.StandardCharsets.UTF_8;

import io.cloudevents.kafka.KafkaMessageFactory;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Handles every event on Kafka once: commits offsets after the events' transactions. */
final class Kafka {
    public static void main(String[] arguments) {
        Inbox.run(Kafka::consume);
    }

    private static void consume(AtomicBoolean running, Inbox inbox) throws Exception {
        Map<String, Object> config = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, Inbox.setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"),
            ConsumerConfig.GROUP_ID_CONFIG, Inbox.setting("KAFKA_GROUP", "example"),
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 50, // what the work finishes within max.poll.interval.ms, 5 minutes
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6_000, // a killed member's partitions are given away after it
            ConsumerConfig.METADATA_MAX_AGE_CONFIG, 10_000); // new topics are seen after it
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(Pattern.compile("attio\\.[^q].*")); // every category, without quarantine
            while (running.get()) {
                var handled = new HashMap<TopicPartition, OffsetAndMetadata>();
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    if (!running.get()) break;
                    inbox.take(message(record), () -> KafkaMessageFactory.createReader(record));
                    var next = new OffsetAndMetadata(record.offset() + 1);
                    handled.put(new TopicPartition(record.topic(), record.partition()), next);
                }
                consumer.commitSync(handled);
            }
        } // leaves the group
    }

    private static Inbox.Message message(ConsumerRecord<String, byte[]> record) {
        var headers = new HashMap<String, String>();
        record.headers().forEach(header -> headers.put(header.key(), text(header.value())));
        var position = record.topic() + "/" + record.partition() + "/" + record.offset();
        var value = record.value() == null ? new byte[0] : record.value();
        return new Inbox.Message(position, record.key(), headers, value, !headers.containsKey("ce_id"));
    }

    private static String text(byte[] value) {
        return value == null ? "" : new String(value, UTF_8);
    }
}
