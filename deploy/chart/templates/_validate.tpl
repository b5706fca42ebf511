{{/* Refuses what the schema cannot: values that do not fit each other. */}}
{{- define "attio-bridge.validate" -}}
{{- $config := .Values.config -}}
{{- $bus := dig "bus" "type" "" $config -}}
{{- if not $bus }}{{ fail "config.bus.type: set it to kafka or nats" }}{{ end -}}
{{- if and (eq $bus "kafka") (not (dig "kafka" "bootstrap_servers" "" $config)) }}{{ fail "config.kafka.bootstrap_servers: name the brokers" }}{{ end -}}
{{- if and (eq $bus "nats") (not (dig "nats" "servers" "" $config)) }}{{ fail "config.nats.servers: name the servers" }}{{ end -}}
{{- if and .Values.tls.secretName (eq $bus "stdout") }}{{ fail "tls.secretName: the bus stdout has no TLS" }}{{ end -}}
{{- if and .Values.tls.clientCertificate (not .Values.tls.secretName) }}{{ fail "tls.secretName: name the Secret with the client certificate" }}{{ end -}}
{{- with .Values.autoscaling }}
  {{- if and .enabled (gt (int64 .minReplicas) (int64 .maxReplicas)) }}{{ fail (printf "autoscaling.minReplicas: %d is more than maxReplicas, %d" (int64 .minReplicas) (int64 .maxReplicas)) }}{{ end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (dig "requests" "cpu" "" .Values.resources)) }}{{ fail "resources.requests.cpu: autoscaling needs it" }}{{ end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: name the host that Attio sends to" }}{{ end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs: name a Gateway" }}{{ end -}}
{{- with .Values.externalSecrets }}
  {{- if and .enabled (not .storeName) }}{{ fail "externalSecrets.storeName: name the store" }}{{ end -}}
  {{- if and .enabled (not .data) }}{{ fail "externalSecrets.data: name the keys of the Secret and where they are in the store" }}{{ end -}}
{{- end -}}
{{- if and .Values.watch.enabled (not $config.webhooks) }}{{ fail "config.webhooks: watch needs at least one" }}{{ end -}}
{{- if and .Values.state.enabled (eq $bus "stdout") }}{{ fail "state.enabled: state needs Kafka or NATS" }}{{ end -}}
{{- if and .Values.state.enabled (eq $bus "kafka") (eq (dig "kafka" "sasl_mechanism" "" $config | upper) "OAUTHBEARER") }}{{ fail "state.enabled: state cannot log in with OAUTHBEARER" }}{{ end -}}
{{- $limit := dig "limits" "memory" "" .Values.resources | toString -}}
{{- $units := dict "Mi" 1048576 "Gi" 1073741824 "M" 1000000 "G" 1000000000 -}}
{{- $unit := regexFind "[A-Za-z]+$" $limit -}}
{{- if and (hasKey $units $unit) (regexMatch "^[0-9]+[A-Za-z]+$" $limit) -}}
  {{- $bytes := mul (regexFind "^[0-9]+" $limit | int64) (get $units $unit) -}}
  {{- $capacity := dig "dedup" "capacity" 250000 $config | int64 -}}
  {{- $needed := add (mul $capacity 120) 67108864 -}}
  {{- if gt $needed $bytes }}{{ fail (printf "resources.limits.memory: %s is too little for %d ids (config.dedup.capacity), which need about %dMi" $limit $capacity (div $needed 1048576)) }}{{ end -}}
{{- end -}}
{{- end }}
