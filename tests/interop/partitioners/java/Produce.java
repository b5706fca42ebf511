// Produces one record for each key on standard input: Produce.java kafka-clients default BOOTSTRAP TOPIC

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

class Produce {
    public static void main(String[] arguments) throws Exception {
        if (!arguments[0].equals("kafka-clients") || !arguments[1].equals("default")) {
            throw new IllegalArgumentException(arguments[0] + " " + arguments[1]);
        }
        var keys = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines().toList();
        Map<String, Object> configuration = Map.of("bootstrap.servers", arguments[2], "linger.ms", 5);
        try (var producer = new KafkaProducer<>(configuration, new StringSerializer(), new StringSerializer())) {
            var results = new ArrayList<Future<RecordMetadata>>();
            for (var key : keys) {
                results.add(producer.send(new ProducerRecord<>(arguments[3], key, "")));
            }
            for (var result : results) {
                result.get();
            }
        }
    }
}
