// Two members of a share group on a topic of one partition with three records: ShareGroup.java BOOTSTRAP TOPIC GROUP
// DEAD_LETTER_TOPIC. Prints what happens, one line each: MEMBER got|accepted|released|rejected OFFSET.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

class ShareGroup {
    record Member(String name, KafkaShareConsumer<byte[], byte[]> consumer) implements AutoCloseable {
        static Member join(String name, String bootstrap, String topic, String group) {
            // One record at a time, so that what each member has in hand is certain.
            var consumer = new KafkaShareConsumer<>(
                Map.of("bootstrap.servers", bootstrap, "group.id", group, "share.acknowledgement.mode", "explicit",
                    "max.poll.records", 1, "share.acquire.mode", "record_limit"),
                new ByteArrayDeserializer(), new ByteArrayDeserializer());
            consumer.subscribe(List.of(topic));
            return new Member(name, consumer);
        }

        ConsumerRecord<byte[], byte[]> next() {
            var deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (System.nanoTime() < deadline) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    System.out.println(name + " got " + record.offset());
                    return record;
                }
            }
            throw new IllegalStateException(name + " gets nothing");
        }

        void acknowledge(ConsumerRecord<byte[], byte[]> record, AcknowledgeType how, String word) {
            consumer.acknowledge(record, how);
            consumer.commitSync().values().forEach(error -> error.ifPresent(e -> { throw e; }));
            System.out.println(name + " " + word + " " + record.offset());
        }

        public void close() {
            consumer.close();
        }
    }

    static AlterConfigOp set(String name, String value) {
        return new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
    }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0], topic = arguments[1], group = arguments[2];
        try (var admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            var resource = new ConfigResource(ConfigResource.Type.GROUP, group);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(
                set("share.auto.offset.reset", "earliest"),
                set("errors.deadletterqueue.topic.name", arguments[3]),
                set("errors.deadletterqueue.copy.record.enable", "true")))).all().get();
        }
        try (var a = Member.join("a", bootstrap, topic, group); var b = Member.join("b", bootstrap, topic, group)) {
            var first = a.next();
            var second = b.next();
            b.acknowledge(second, AcknowledgeType.ACCEPT, "accepted");
            a.acknowledge(first, AcknowledgeType.RELEASE, "released");
            b.acknowledge(b.next(), AcknowledgeType.ACCEPT, "accepted");
            b.acknowledge(b.next(), AcknowledgeType.REJECT, "rejected");
        }
    }
}
