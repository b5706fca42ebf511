#!/bin/sh
# The default partitioners of two Node.js clients for Kafka agree on every key of a topic of 4, 8 or 16 partitions, and on
# half of the keys of any other.
#
# Versions   @platformatic/kafka 2.12.1, kafkajs 2.2.4, Node.js 24.19.0 (an npm package too)
# Expected   Both hash the key with murmur2, as Java's client does: they agree on every key, or on almost none.
# Observed   Of 1,000 lower-case UUIDs 1,000 go to the same partition where their number is 4, 8 or 16, and 474 where it
#            is 3, 6, 10 or 12. kafkajs drops the sign bit of the hash, as Java does; @platformatic/kafka takes
#            the hash as unsigned, which is 2^31 more for a negative one, and that is a multiple of every power of two.
#            A test on 8 partitions shows nothing; production on 12 has half of the keys elsewhere. With
#            `partitioner: compatibilityPartitioner` they agree on all.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs npm.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
echo '{ "private": true, "type": "module" }' >package.json
npm install --silent --no-audit --no-fund @platformatic/kafka@2.12.1 kafkajs@2.2.4 node@24.19.0

cat >count.js <<'JAVASCRIPT'
import { createHash } from 'node:crypto'
import { compatibilityPartitioner, defaultPartitioner } from '@platformatic/kafka'
import kafkajs from 'kafkajs'

// UUIDs of version 5 in the namespace for URLs, of the texts "0" to "999".
const namespace = Buffer.from('6ba7b8119dad11d180b400c04fd430c8', 'hex')
const uuid = text => {
  const bytes = createHash('sha1').update(namespace).update(text).digest().subarray(0, 16)
  bytes[6] = (bytes[6] & 0x0f) | 0x50
  bytes[8] = (bytes[8] & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
const keys = Array.from({ length: 1000 }, (_, number) => uuid(String(number)))
const partitionOf = kafkajs.Partitioners.DefaultPartitioner()
const theirs = (key, count) => {
  const partitionMetadata = Array.from({ length: count }, (_, partitionId) => ({ partitionId, leader: 1 }))
  return partitionOf({ topic: 't', partitionMetadata, message: { key: Buffer.from(key) } })
}
let asObserved = true
for (const count of [3, 4, 6, 8, 10, 12, 16]) {
  const agree = partitioner =>
    keys.filter(key => partitioner({}, Buffer.from(key)) % count === theirs(key, count)).length
  const [byDefault, compatible] = [agree(defaultPartitioner), agree(compatibilityPartitioner)]
  console.log(`${count} partitions: ${byDefault} of 1000 agree, ${compatible} with compatibilityPartitioner`)
  asObserved &&= byDefault === ([4, 8, 16].includes(count) ? 1000 : 474) && compatible === 1000
}
process.exit(asObserved ? 0 : 1)
JAVASCRIPT
node_modules/.bin/node count.js
