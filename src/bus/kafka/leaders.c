/*
 * Keeps librdkafka from crashing when a broker comes back (https://github.com/confluentinc/librdkafka/issues/5280, still in
 * 2.14).
 *
 * The answer to a fetch names the new leaders of partitions. librdkafka makes room for a description of each partition
 * that the answer names, leaves those out that have no leader yet, and then reads them all: what it has not written is
 * memory of something else. So each gets a number here that no topic has as many partitions for, which it skips.
 *
 * `build.rs` has the linker call this function instead of the one that makes room.
 */
#include <stdint.h>

/* As in rdkafka.h, where they are part of the interface. */
struct partition {
    int32_t id;
    int err;
    int32_t leader;
    int replica_cnt;
    int32_t *replicas;
    int isr_cnt;
    int32_t *isrs;
};

struct topic {
    char *topic;
    int partition_cnt;
    struct partition *partitions;
    int err;
};

struct metadata {
    int broker_cnt;
    void *brokers;
    int topic_cnt;
    struct topic *topics;
};

/* As in rdkafka_proto.h. */
struct uuid {
    int64_t high;
    int64_t low;
    char text[23];
};

void __real_rd_kafkap_leader_discovery_set_topic(void *buffer, struct metadata *metadata, int at, struct uuid id,
                                                 char *name, int partitions);

void __wrap_rd_kafkap_leader_discovery_set_topic(void *buffer, struct metadata *metadata, int at, struct uuid id,
                                                 char *name, int partitions) {
    __real_rd_kafkap_leader_discovery_set_topic(buffer, metadata, at, id, name, partitions);
    for (int each = 0; each < partitions; each++) {
        metadata->topics[at].partitions[each].id = INT32_MAX;
    }
}
