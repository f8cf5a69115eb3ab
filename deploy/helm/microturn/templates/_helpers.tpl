{{- define "microturn.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "microturn.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "microturn.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "microturn.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that choose the pods of a part: (list . "gateway") */}}
{{- define "microturn.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "microturn.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "microturn.labels" -}}
{{- $root := index . 0 -}}
{{ include "microturn.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* NAME:TAG or NAME@DIGEST: (list . .Values.gateway.image) */}}
{{- define "microturn.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "microturn.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "microturn.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "microturn.secret" -}}
{{- .Values.auth.existingSecret | default (include "microturn.fullname" .) -}}
{{- end -}}

{{- define "microturn.turnSecret" -}}
{{- .Values.turn.existingSecret | default (include "microturn.fullname" .) -}}
{{- end -}}

{{- define "microturn.redisSecret" -}}
{{- if .Values.redis.existingSecret -}}{{ .Values.redis.existingSecret }}
{{- else if .Values.redis.enabled -}}{{ include "microturn.fullname" . }}
{{- end -}}
{{- end -}}

{{- define "microturn.redisUrl" -}}
{{- if .Values.redis.enabled -}}
{{ ternary "rediss" "redis" .Values.redis.tls.enabled }}://{{ include "microturn.fullname" . }}-redis:6379/0
{{- else -}}
{{ .Values.redis.url | default "off" }}
{{- end -}}
{{- end -}}

{{- define "microturn.turnUrls" -}}
{{- if .Values.turn.urls -}}
{{ join "," .Values.turn.urls }}
{{- else if .Values.coturn.enabled -}}
{{- $plain := printf "%s:%v" .Values.coturn.host .Values.coturn.port -}}
turn:{{ $plain }}?transport=udp,turn:{{ $plain }}?transport=tcp
{{- if .Values.coturn.tls.enabled -}},turns:{{ .Values.coturn.host }}:{{ .Values.coturn.tls.port }}?transport=tcp{{- end -}}
{{- end -}}
{{- end -}}

{{- define "microturn.scheme" -}}
{{- ternary "https" "http" (ne .Values.gateway.http.tls.existingSecret "") -}}
{{- end -}}

{{/* The most gateways that there may be: the edge has a line for each. */}}
{{- define "microturn.mostGateways" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled -}}
{{- end -}}

{{/* MiB of the slot table, rounded up: pictures of 320x240, four a slot, and two rings of four turns (media/slots.py). */}}
{{- define "microturn.slotTableMiB" -}}
{{- add 2 (div (add 1048575 (mul (int .slots) 1000000)) 1048576) -}}
{{- end -}}

{{- define "microturn.shmSize" -}}
{{- .shmSize | default (printf "%dMi" (add 64 (include "microturn.slotTableMiB" . | int))) -}}
{{- end -}}

{{- define "microturn.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "microturn.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every pod has: (dict "root" . "nodeSelector" ... "tolerations" ...) */}}
{{- define "microturn.pod" -}}
{{- $root := .root -}}
serviceAccountName: {{ include "microturn.serviceAccount" $root }}
automountServiceAccountToken: false
# Kubernetes would put MICROTURN_PORT and the like into the environment, and unknown settings are refused
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (list . "gateway") */}}
{{- define "microturn.spread" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: {{ $root.Values.topologySpread.maxSkew }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "microturn.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "microturn.priority" -}}
{{- with .Values.priorityClass.name }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A setting by its name, as the environment has it: lists and tables as JSON, but lists of words by commas. */}}
{{- define "microturn.settings" -}}
{{- $prefix := .prefix -}}
{{- range $name, $value := .settings }}
- name: {{ $prefix }}{{ upper $name }}
  {{- if kindIs "slice" $value }}
  {{- if and $value (kindIs "map" (first $value)) }}
  value: {{ toJson $value | quote }}
  {{- else }}
  value: {{ join "," $value | quote }}
  {{- end }}
  {{- else if kindIs "map" $value }}
  value: {{ toJson $value | quote }}
  {{- else if kindIs "float64" $value }}
  value: {{ ternary ($value | int64 | toString) ($value | toString) (eq (floor $value) $value) | quote }}
  {{- else }}
  value: {{ $value | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What gateways and workers know of Redis. */}}
{{- define "microturn.redisEnv" -}}
- name: MICROTURN_REDIS
  value: {{ include "microturn.redisUrl" . | quote }}
- name: MICROTURN_REDIS_NAMESPACE
  value: {{ .Values.redis.namespace | quote }}
{{- if and (not .Values.redis.enabled) .Values.redis.user }}
- name: MICROTURN_REDIS_USER
  value: {{ .Values.redis.user | quote }}
{{- end }}
{{- with include "microturn.redisSecret" . }}
- name: MICROTURN_REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ . }}, key: redis-password}}
{{- end }}
{{- if .Values.redis.tls.existingSecret }}
- name: MICROTURN_REDIS_TLS_CA
  value: /etc/microturn/redis-tls/ca.crt
{{- if and (not .Values.redis.enabled) .Values.redis.tls.clientCertificate }}
- name: MICROTURN_REDIS_TLS_CERT
  value: /etc/microturn/redis-tls/tls.crt
- name: MICROTURN_REDIS_TLS_KEY
  value: /etc/microturn/redis-tls/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{/* What does not fit together, in words. Included once, by the gateways. */}}
{{- define "microturn.check" -}}
{{- $v := .Values -}}
{{- $least := add $v.drain.preStopSeconds $v.drain.seconds 10 -}}
{{- if le (int $v.drain.gracePeriodSeconds) (int $least) -}}
{{- fail (printf "drain.gracePeriodSeconds = %v is not above drain.preStopSeconds + drain.seconds + 10 = %v: calls would be cut by SIGKILL. Give drain.gracePeriodSeconds = %v or more, or a lower drain.seconds (%v)" $v.drain.gracePeriodSeconds $least (add $least 1) $v.drain.seconds) -}}
{{- end -}}
{{- if gt (add $v.gateway.rtp.port $v.gateway.rtp.ports) 65536 -}}
{{- fail (printf "gateway.rtp.port = %v + gateway.rtp.ports = %v is beyond 65535: lower one" $v.gateway.rtp.port $v.gateway.rtp.ports) -}}
{{- end -}}
{{- if gt (mul 4 $v.gateway.sip.calls) (int $v.gateway.rtp.ports) -}}
{{- fail (printf "gateway.rtp.ports = %v are too few for gateway.sip.calls = %v: give %v, four a call" $v.gateway.rtp.ports $v.gateway.sip.calls (mul 4 $v.gateway.sip.calls)) -}}
{{- end -}}
{{- if and $v.probe.enabled (eq $v.gateway.sip.srtp "required") -}}
{{- fail "probe.enabled with gateway.sip.srtp = required: probe calls have plain RTP, within their pod alone. Give gateway.sip.srtp = optional, or no probes" -}}
{{- end -}}
{{- if and $v.gateway.sip.tls.port (not $v.gateway.sip.tls.existingSecret) -}}
{{- fail (printf "gateway.sip.tls.port = %v without gateway.sip.tls.existingSecret: name a Secret of type kubernetes.io/tls" $v.gateway.sip.tls.port) -}}
{{- end -}}
{{- if and $v.edge.tls.enabled (not $v.edge.tls.existingSecret) -}}
{{- fail "edge.tls.enabled without edge.tls.existingSecret: name a Secret of type kubernetes.io/tls" -}}
{{- end -}}
{{- if and $v.coturn.tls.enabled (not $v.coturn.tls.existingSecret) -}}
{{- fail "coturn.tls.enabled without coturn.tls.existingSecret: name a Secret of type kubernetes.io/tls" -}}
{{- end -}}
{{- if and $v.coturn.enabled (not $v.coturn.host) -}}
{{- fail "coturn.enabled without coturn.host: give the name or address that browsers reach it at" -}}
{{- end -}}
{{- if and (eq $v.media.mode "turn") (not $v.coturn.enabled) (not $v.turn.urls) -}}
{{- fail "media.mode = turn without a TURN server: set coturn.enabled and coturn.host, or turn.urls with turn.existingSecret" -}}
{{- end -}}
{{- if and $v.turn.urls (not $v.turn.existingSecret) (not $v.coturn.enabled) -}}
{{- fail "turn.urls without turn.existingSecret: the Secret's turn-secret has to be the TURN server's own (static-auth-secret)" -}}
{{- end -}}
{{- if and $v.redis.enabled $v.redis.url -}}
{{- fail (printf "redis.url = %s with redis.enabled: set redis.enabled = false for an existing one" $v.redis.url) -}}
{{- end -}}
{{- if and $v.redis.enabled $v.redis.tls.enabled (not $v.redis.tls.existingSecret) -}}
{{- fail "redis.tls.enabled without redis.tls.existingSecret: name a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and (not $v.redis.enabled) $v.redis.tls.existingSecret (not (regexMatch "^(rediss|sentinels|clusters)://" $v.redis.url)) -}}
{{- fail (printf "redis.tls.existingSecret with redis.url = %q: give rediss://, sentinels:// or clusters://" $v.redis.url) -}}
{{- end -}}
{{- if and $v.worker.enabled (eq (include "microturn.redisUrl" .) "off") -}}
{{- fail "worker.enabled without a Redis: set redis.enabled or redis.url, or worker.enabled = false" -}}
{{- end -}}
{{- if and $v.worker.url (not $v.worker.model) -}}
{{- fail (printf "worker.url = %s without worker.model: name the model to ask for" $v.worker.url) -}}
{{- end -}}
{{- if and $v.worker.keda.enabled (not $v.redis.enabled) (not $v.worker.keda.address) -}}
{{- fail "worker.keda.enabled with an existing Redis needs worker.keda.address: HOST:PORT as KEDA reaches it" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas = %v is more than autoscaling.maxReplicas = %v" $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (eq $v.autoscaling.kind "keda") (not $v.autoscaling.prometheusAddress) -}}
{{- fail "autoscaling.kind = keda without autoscaling.prometheusAddress: give http://HOST:PORT of Prometheus" -}}
{{- end -}}
{{- if and (or (gt (int $v.replicas) 1) $v.autoscaling.enabled) (eq (include "microturn.redisUrl" .) "off") -}}
{{- fail "several gateways without a Redis do not know of each other: set redis.enabled or redis.url, or replicas = 1" -}}
{{- end -}}
{{- if and $v.probe.enabled (or (hasKey ($v.engines | default dict) "probe") (and (kindIs "map" $v.gateway.settings.engines) (hasKey $v.gateway.settings.engines "probe"))) -}}
{{- fail "an engine probe with probe.enabled: that name is the chart's own, give yours another" -}}
{{- end -}}
{{- if and $v.engines (hasKey $v.gateway.settings "engines") -}}
{{- fail "engines with gateway.settings.engines: the chart writes that setting for its containers. Leave one of them away" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- fail "ingress.enabled without ingress.host: give the name of the page" -}}
{{- end -}}
{{- if and $v.priorityClass.create (not $v.priorityClass.name) -}}
{{- fail "priorityClass.create without priorityClass.name" -}}
{{- end -}}
{{- range $name, $model := include "microturn.models" . | fromJson -}}
{{- $at := ternary (printf "engines.%s" $name) "model" (ne $name "") -}}
{{- if and $model.gpu.count (ne $model.engine "sglang") -}}
{{- fail (printf "%s.gpu.count = %v with %s.engine = %s, which runs on a CPU: set %s.engine = sglang, or %s.gpu.count = 0" $at $model.gpu.count $at $model.engine $at $at) -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" $model.resources | toString -}}
{{- $table := include "microturn.slotTableMiB" $model | int -}}
{{- if regexMatch "^[0-9]+(Mi|Gi)$" $limit -}}
{{- $has := ternary (mul 1024 (trimSuffix "Gi" $limit | int)) (trimSuffix "Mi" $limit | int64) (hasSuffix "Gi" $limit) -}}
{{- if le (int $has) $table -}}
{{- fail (printf "%s.resources.limits.memory = %s does not hold the slot table of %s.slots = %v: it alone takes %d MiB" $at $limit $at $model.slots $table) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
