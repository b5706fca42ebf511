// Produces one record for each key on standard input: produce.mjs CLIENT SETTING BOOTSTRAP TOPIC

import { readFileSync } from 'node:fs'
import { Producer, compatibilityPartitioner, stringSerializers } from '@platformatic/kafka'
import kafkajs from 'kafkajs'

const clients = {
  kafkajs: async (setting, bootstrap, topic, keys) => {
    const partitioner = {
      default: undefined,
      LegacyPartitioner: kafkajs.Partitioners.LegacyPartitioner,
    }
    const { Kafka, logLevel } = kafkajs
    const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR })
    const producer = kafka.producer({ createPartitioner: lookUp(partitioner, setting) })
    await producer.connect()
    await producer.send({ topic, messages: keys.map(key => ({ key, value: '' })) })
    await producer.disconnect()
  },
  '@platformatic/kafka': async (setting, bootstrap, topic, keys) => {
    const partitioner = { default: undefined, compatibilityPartitioner }
    const producer = new Producer({
      clientId: 'partitioners',
      bootstrapBrokers: [bootstrap],
      serializers: stringSerializers,
      partitioner: lookUp(partitioner, setting),
    })
    await producer.send({ messages: keys.map(key => ({ topic, key, value: '' })) })
    await producer.close()
  },
}

function lookUp(table, name) {
  if (!(name in table)) throw new Error(name)
  return table[name]
}

const [client, ...rest] = process.argv.slice(2)
await lookUp(clients, client)(...rest, readFileSync(0, 'utf8').trim().split('\n'))
