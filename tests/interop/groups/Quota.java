// Limits what a client may produce: Quota.java BOOTSTRAP CLIENT_ID BYTES_PER_SECOND

import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;

class Quota {
    public static void main(String[] arguments) throws Exception {
        try (var admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            var client = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, arguments[1]));
            var rate = new ClientQuotaAlteration.Op("producer_byte_rate", Double.valueOf(arguments[2]));
            admin.alterClientQuotas(List.of(new ClientQuotaAlteration(client, List.of(rate)))).all().get();
        }
    }
}
