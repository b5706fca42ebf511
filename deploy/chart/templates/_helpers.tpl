{{/* The prefix of every name. */}}
{{- define "attio-bridge.fullname" -}}
{{- $default := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- .Values.fullnameOverride | default $default | trunc 45 | trimSuffix "-" -}}
{{- end }}

{{/* The name of a component (dict root component): the bridge has the bare one. */}}
{{- define "attio-bridge.name" -}}
{{- $name := include "attio-bridge.fullname" .root -}}
{{- eq .component "bridge" | ternary $name (printf "%s-%s" $name .component) -}}
{{- end }}

{{- define "attio-bridge.secretName" -}}
{{- .Values.secret.name | default (include "attio-bridge.fullname" .) -}}
{{- end }}

{{- define "attio-bridge.apiKeySecretName" -}}
{{- .Values.apiKey.name | default (printf "%s-api-key" (include "attio-bridge.fullname" .)) -}}
{{- end }}

{{/* Labels that never change (dict root component). */}}
{{- define "attio-bridge.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "attio-bridge.labels" -}}
{{ include "attio-bridge.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The components that run, comma separated. */}}
{{- define "attio-bridge.components" -}}
bridge{{ if .Values.watch.enabled }},watch{{ end }}{{ if .Values.state.enabled }},state{{ end }}
{{- end }}

{{/* The port of an address host:port. */}}
{{- define "attio-bridge.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end }}

{{/* The port with /metrics of a component (dict root component). */}}
{{- define "attio-bridge.metricsPort" -}}
{{- $config := .root.Values.config -}}
{{- if eq .component "bridge" -}}{{ include "attio-bridge.port" $config.admin.listen }}
{{- else if eq .component "state" -}}{{ include "attio-bridge.port" (dig "state" "listen" "0.0.0.0:8082" $config) }}
{{- else -}}8082{{- end -}}
{{- end }}

{{/* A duration of the configuration, such as "1m 30s", in milliseconds. */}}
{{- define "attio-bridge.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "secs" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hr" 3600000 "hour" 3600000 "hours" 3600000 -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+\\s*[A-Za-zµ]+" . -1 -}}
  {{- $unit := regexFind "[A-Za-zµ]+" . -}}
  {{- if not (hasKey $units $unit) -}}
    {{- fail (printf "config.shutdown: the chart cannot add up a duration in %q; use ms, s, m or h" $unit) -}}
  {{- end -}}
  {{- $total = add $total (mul (regexFind "^[0-9]+" . | int64) (get $units $unit)) -}}
{{- end -}}
{{- $total -}}
{{- end }}

{{/* shutdown.delay + shutdown.drain_timeout + 5 s, in whole seconds. */}}
{{- define "attio-bridge.gracePeriod" -}}
{{- $delay := include "attio-bridge.milliseconds" (dig "shutdown" "delay" "0s" .Values.config) | int64 -}}
{{- $drain := include "attio-bridge.milliseconds" (dig "shutdown" "drain_timeout" "20s" .Values.config) | int64 -}}
{{- add 5 (div (add $delay $drain 999) 1000) -}}
{{- end }}

{{/* The ports of the servers in the configuration (dict root bus), comma separated. */}}
{{- define "attio-bridge.serverPorts" -}}
{{- $config := .root.Values.config -}}
{{- $servers := eq .bus "nats" | ternary (dig "nats" "servers" list $config) (dig "kafka" "bootstrap_servers" list $config) -}}
{{- if kindIs "string" $servers }}{{ $servers = splitList "," $servers }}{{ end -}}
{{- $default := eq .bus "nats" | ternary "4222" "9092" -}}
{{- $ports := list -}}
{{- range $servers }}{{ $ports = append $ports (regexFind ":[0-9]+/?$" (trim .) | trimAll ":/" | default $default) }}{{ end -}}
{{- $ports | uniq | join "," -}}
{{- end }}

{{/* The ports of the brokers, comma separated. */}}
{{- define "attio-bridge.brokerPorts" -}}
{{- with .Values.networkPolicy.brokerPorts -}}
  {{- $ports := list -}}
  {{- range . }}{{ $ports = append $ports (int64 . | toString) }}{{ end -}}
  {{- $ports | uniq | join "," -}}
{{- else -}}
  {{- include "attio-bridge.serverPorts" (dict "root" . "bus" .Values.config.bus.type) -}}
{{- end -}}
{{- end }}

{{/* The port of an address that begins with http:// or https://. */}}
{{- define "attio-bridge.urlPort" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end }}

{{/* The ports that a component (dict root component) needs beside those of DNS and the brokers, comma separated. */}}
{{- define "attio-bridge.otherPorts" -}}
{{- $config := .root.Values.config -}}
{{- $urls := list -}}
{{- $ports := list -}}
{{- if ne .component "bridge" -}}
  {{- $urls = append $urls (dig "attio" "api_url" "https://api.attio.com" $config) -}}
{{- else -}}
  {{- $urls = append $urls (dig "traces" "endpoint" "" $config) -}}
  {{- if eq $config.bus.type "kafka" -}}
    {{- $urls = append $urls (dig "kafka" "oauth" "token_url" "" $config) -}}
    {{- if eq (dig "kafka" "oauth" "provider" "" $config) "aws-msk-iam" }}{{ $ports = append $ports "443" }}{{ end -}}
  {{- end -}}
  {{- if and (eq (dig "dedup" "store" "" $config) "nats-kv") (ne $config.bus.type "nats") -}}
    {{- $ports = concat $ports (include "attio-bridge.serverPorts" (dict "root" .root "bus" "nats") | splitList ",") -}}
  {{- end -}}
{{- end -}}
{{- range compact $urls }}{{ $ports = append $ports (include "attio-bridge.urlPort" .) }}{{ end -}}
{{- $ports | compact | uniq | join "," -}}
{{- end }}
