{{/*
A value as TOML. JSON strings are TOML strings. Helm reads whole numbers as floating point, which print as 6.7108864e+07
from a million up and which the bridge refuses, so those are printed as the integers that they are.
*/}}
{{- define "attio-bridge.toml.value" -}}
{{- if kindIs "string" . -}}{{ toJson . }}
{{- else if kindIs "bool" . -}}{{ . }}
{{- else if kindIs "slice" . -}}
[{{ range $index, $element := . }}{{ if $index }}, {{ end }}{{ include "attio-bridge.toml.value" $element }}{{ end }}]
{{- else if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}
  {{- if not (kindIs "invalid" $value) -}}
    {{- $pairs = append $pairs (printf "%s = %s" (include "attio-bridge.toml.key" $key) (include "attio-bridge.toml.value" $value)) -}}
  {{- end -}}
{{- end -}}
{ {{ join ", " $pairs }} }
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}{{ int64 . }}
{{- end -}}
{{- end }}

{{- define "attio-bridge.toml.key" -}}
{{- regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (toJson .) -}}
{{- end }}

{{/* A table (dict path table): its own keys, then its tables. */}}
{{- define "attio-bridge.toml" -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "attio-bridge.toml.key" $key }} = {{ include "attio-bridge.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $path := append $.path (include "attio-bridge.toml.key" $key) }}
{{- $own := empty $value }}
{{- range $value }}{{ if not (kindIs "map" .) }}{{ $own = true }}{{ end }}{{ end }}
{{- if $own }}

[{{ join "." $path }}]
{{- end }}
{{- include "attio-bridge.toml" (dict "path" $path "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The configuration file: the values' `config`, and the files of `tls` where none are named. */}}
{{- define "attio-bridge.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.tls.secretName -}}
  {{- $files := dict "ca_file" "/run/secrets/tls/ca.crt" -}}
  {{- if .Values.tls.clientCertificate -}}
    {{- $files = merge $files (dict "cert_file" "/run/secrets/tls/tls.crt" "key_file" "/run/secrets/tls/tls.key") -}}
  {{- end -}}
  {{- $bus := $config.bus.type -}}
  {{- $_ := set $config $bus (merge (get $config $bus | default dict) $files) -}}
{{- end -}}
{{- include "attio-bridge.toml" (dict "path" list "table" $config) | trim -}}
{{- end }}
