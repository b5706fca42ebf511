{{/*
The pod of a component: dict with root, component, args, resources, and optionally apiKey (mount it), spread, ready (it
has /readyz), workingDir (a folder that it can write to, for as long as the pod lasts).
*/}}
{{- define "attio-bridge.pod" -}}
{{- $values := .root.Values -}}
metadata:
  annotations:
    checksum/config: {{ include "attio-bridge.config" .root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "attio-bridge.labels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "attio-bridge.podSpec" . | nindent 2 }}
{{- end }}

{{- define "attio-bridge.podSpec" -}}
{{- $values := .root.Values -}}
terminationGracePeriodSeconds: {{ include "attio-bridge.gracePeriod" .root }}
automountServiceAccountToken: false
# Otherwise every Service of the namespace adds variables, such as ATTIO_BRIDGE_PORT.
enableServiceLinks: false
{{- with $values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
  {{- range $values.topologySpread }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "attio-bridge.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ $values.image.repository }}{{ if $values.image.digest }}@{{ $values.image.digest }}{{ else }}:{{ $values.image.tag | default .root.Chart.AppVersion }}{{ end }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: {{ toJson .args }}
    {{- with .workingDir }}
    workingDir: {{ . }}
    {{- end }}
    {{- $reads := and (eq .component "state") (eq $values.config.bus.type "kafka") (not (hasKey $values.env "GLIBC_TUNABLES")) }}
    env:
      # A variable, so that verbs which are run by `kubectl exec` have it too.
      - name: ATTIO_BRIDGE_CONFIG
        value: /etc/attio-bridge/config.toml
      {{- if $reads }}
      # Keeps librdkafka's consumer from a crash when a broker comes back (confluentinc/librdkafka#5280): memory that it
      # reads before it has written it holds no number of a partition.
      - name: GLIBC_TUNABLES
        value: glibc.malloc.perturb=255
      {{- end }}
      {{- range $name, $value := $values.env }}
      - name: {{ $name }}
        value: {{ $value | quote }}
      {{- end }}
      {{- if .apiKey }}
      - name: ATTIO_API_KEY_FILE
        value: /run/secrets/attio-api-key/{{ $values.apiKey.key }}
      {{- end }}
    {{- if ne .component "test" }}
    {{- $admin := eq .component "bridge" | ternary "admin" "metrics" }}
    ports:
      {{- if eq .component "bridge" }}
      - name: http
        containerPort: {{ include "attio-bridge.port" $values.config.http.listen }}
      {{- end }}
      - name: {{ $admin }}
        containerPort: {{ include "attio-bridge.metricsPort" . }}
    {{- if .ready }}
    # Ready: the broker has been reached once and the program is not stopping. Live: the process responds. Neither
    # follows the broker's health, or an outage would remove every pod at once.
    readinessProbe:
      httpGet:
        path: /readyz
        port: {{ $admin }}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    {{- end }}
    livenessProbe:
      httpGet:
        path: /livez
        port: {{ $admin }}
      periodSeconds: 10
      timeoutSeconds: 3
      failureThreshold: 3
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: ["ALL"]
    volumeMounts:
      - name: config
        mountPath: /etc/attio-bridge
        readOnly: true
      # Folders, not files with subPath: those do not follow a change of the Secret.
      - name: secrets
        mountPath: /run/secrets/attio-bridge
        readOnly: true
      {{- if $values.tls.secretName }}
      - name: tls
        mountPath: /run/secrets/tls
        readOnly: true
      {{- end }}
      {{- if .apiKey }}
      - name: api-key
        mountPath: /run/secrets/attio-api-key
        readOnly: true
      {{- end }}
      {{- with .workingDir }}
      - name: work
        mountPath: {{ . }}
      {{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "attio-bridge.fullname" .root }}
  - name: secrets
    secret:
      secretName: {{ include "attio-bridge.secretName" .root }}
      defaultMode: 0440
  {{- with $values.tls.secretName }}
  - name: tls
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- if .apiKey }}
  - name: api-key
    secret:
      secretName: {{ include "attio-bridge.apiKeySecretName" .root }}
      defaultMode: 0440
  {{- end }}
  {{- if .workingDir }}
  - name: work
    emptyDir: {}
  {{- end }}
{{- end }}
