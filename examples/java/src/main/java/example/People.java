package example;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Keeps a copy of people from the states on Kafka in memory: prints it, and then each change. */
final class People {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, JsonNode> PEOPLE = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        var topic = Inbox.setting("KAFKA_TOPIC", "attio-state.record");
        Map<String, Object> config = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, Inbox.setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"),
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed", // a state of an aborted transaction does not count
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none", // the topic was made anew: start again, with an empty copy
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            var partitions = consumer.partitionsFor(topic).stream()
                .map(partition -> new TopicPartition(topic, partition.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            var ends = consumer.endOffsets(partitions); // where each ends now: behind it are changes
            var whole = false;
            while (true) {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    if (keep(record.key(), record.value()) && whole) print(record.key());
                }
                // The position is also behind the mark of a transaction, which is no record.
                if (!whole && partitions.stream().allMatch(one -> consumer.position(one) >= ends.get(one))) {
                    whole = true;
                    PEOPLE.keySet().forEach(People::print);
                }
            }
        }
    }

    /** Whether something has changed. */
    private static boolean keep(String id, String value) throws Exception {
        if (value == null) return PEOPLE.remove(id) != null; // a tombstone: deleted, or merged into another
        var state = JSON.readTree(value);
        if (!state.path("attioobject").asText().equals("people")) return false;
        PEOPLE.put(id, state.get("data"));
        return true;
    }

    private static void print(String id) {
        System.out.println(id + "\t" + (PEOPLE.containsKey(id) ? PEOPLE.get(id) : "gone"));
    }
}
