-- Files are complete, and offsets are committed, at a checkpoint.
SET 'execution.checkpointing.interval' = '2 s';

-- The whole message, byte for byte. In SELECT, JSON_VALUE(`value`, '$.data.amount') has every digit of a number.
CREATE TABLE messages (
  `key` STRING,
  `value` STRING,
  topic STRING METADATA VIRTUAL,
  headers MAP<STRING, BYTES> METADATA VIRTUAL
) WITH (
  'connector' = 'kafka',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.group.id' = 'flink-messages',
  'topic-pattern' = 'attio\.[^q].*',
  'scan.topic-partition-discovery.interval' = '10 s',
  'scan.startup.mode' = 'earliest-offset',
  'key.format' = 'raw',
  'key.fields' = 'key',
  'value.format' = 'raw',
  'value.fields-include' = 'EXCEPT_KEY'
);

-- The attributes as columns, in structured mode. `time` needs TIMESTAMP_LTZ, since TIMESTAMP fails on the Z. `data` is left
-- out, since this format writes it again: -0 as 0, 1E400 as "Infinity", long decimals rounded. A message that is no JSON
-- is left out too, and is in `messages`.
CREATE TABLE attributes (
  id STRING,
  source STRING,
  type STRING,
  subject STRING,
  `time` TIMESTAMP_LTZ(3),
  partitionkey STRING
) WITH (
  'connector' = 'kafka',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.group.id' = 'flink-attributes',
  'topic-pattern' = 'attio\.[^q].*',
  'scan.topic-partition-discovery.interval' = '10 s',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601',
  'json.ignore-parse-errors' = 'true'
);

CREATE TABLE raw_file (line STRING) WITH (
  'connector' = 'filesystem',
  'path' = 'target/raw',
  'format' = 'raw',
  'sink.rolling-policy.rollover-interval' = '2 s',
  'sink.rolling-policy.check-interval' = '1 s'
);

CREATE TABLE json_file (id STRING, type STRING, `time` TIMESTAMP_LTZ(3), partitionkey STRING) WITH (
  'connector' = 'filesystem',
  'path' = 'target/json',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601',
  'sink.rolling-policy.rollover-interval' = '2 s',
  'sink.rolling-policy.check-interval' = '1 s'
);

-- The bridge publishes no message without a value, and the format raw cannot write one: it would stop the job.
EXECUTE STATEMENT SET
BEGIN
INSERT INTO raw_file SELECT `value` FROM messages WHERE `value` IS NOT NULL;
INSERT INTO json_file SELECT id, type, `time`, partitionkey FROM attributes WHERE id IS NOT NULL;
END;
