{{/* The model servers of a gateway's pod: the usual one's container is `model`, a further engine's `model-NAME`. */}}

{{/* Behind a name that the usual one has without it: `-NAME`. */}}
{{- define "microturn.ofEngine" -}}
{{- if . }}-{{ . }}{{ end -}}
{{- end -}}

{{/* JSON: what each is, by name, "" the usual one. What `engines` does not say is as in `model`, but for what belongs to
that engine alone: its persona, its settings, its GPUs. `probe` answers probe calls alone. */}}
{{- define "microturn.models" -}}
{{- $models := dict "" .Values.model -}}
{{- range $name, $own := .Values.engines -}}
{{- $alone := dict "persona" "" "shmSize" "" "settings" (dict) "gpu" (dict "count" 0 "resource" $.Values.model.gpu.resource) -}}
{{- $shared := omit (deepCopy $.Values.model) "persona" "shmSize" "settings" "gpu" -}}
{{- $_ := set $models $name (mergeOverwrite $shared $alone (deepCopy $own)) -}}
{{- end -}}
{{- if .Values.probe.enabled -}}
{{- $echo := dict "engine" "echo" "slots" 8 "groups" 1 "persona" "" "shmSize" "" "settings" (dict) "resources" .Values.probe.resources "gpu" (dict "count" 0 "resource" .Values.model.gpu.resource) -}}
{{- $_ := set $models "probe" (merge $echo (omit .Values.model "resources" "gpu")) -}}
{{- end -}}
{{- toJson $models -}}
{{- end -}}

{{- define "microturn.engineSocket" -}}
/run/microturn/gateway/model{{ include "microturn.ofEngine" . }}.sock
{{- end -}}

{{/* The gateway's setting `engines`: the containers are in its pod, sockets of others in gateway.settings. */}}
{{- define "microturn.engineSettings" -}}
{{- $told := deepCopy (.Values.gateway.settings.engines | default dict) -}}
{{- range $name, $model := omit (include "microturn.models" . | fromJson) "" -}}
{{- $_ := set $told $name (dict "socket" (include "microturn.engineSocket" $name) "persona" ($model.persona | default "")) -}}
{{- end -}}
{{- if $told }}{{ toJson $told }}{{ end -}}
{{- end -}}

{{/* (dict "root" $ "name" NAME "model" one of "microturn.models") */}}
{{- define "microturn.model" -}}
{{- $root := .root -}}
{{- $model := .model -}}
{{- $of := include "microturn.ofEngine" .name -}}
{{- $socket := include "microturn.engineSocket" .name -}}
- name: model{{ $of }}
  image: {{ include "microturn.image" (list $root $model.image) | quote }}
  imagePullPolicy: {{ $model.image.pullPolicy }}
  args: [--engine, {{ $model.engine }}]
  securityContext: {{ include "microturn.containerSecurity" $root | nindent 4 }}
  env:
    - name: MICROTURN_MODEL_SOCKET
      value: {{ $socket }}
    - name: MICROTURN_MODEL_ENGINE
      value: {{ $model.engine }}
    - name: MICROTURN_MODEL_PERSONA
      value: {{ $model.persona | quote }}
    - name: MICROTURN_MODEL_SLOTS
      value: {{ $model.slots | quote }}
    - name: MICROTURN_MODEL_GROUPS
      value: {{ $model.groups | quote }}
    - name: MICROTURN_MODEL_LOG_LEVEL
      value: {{ $root.Values.logLevel }}
    - name: MICROTURN_MODEL_LOG_FORMAT
      value: {{ $root.Values.logFormat }}
    {{- include "microturn.settings" (dict "prefix" "MICROTURN_MODEL_" "settings" $model.settings) | nindent 4 }}
  # loaded, warmed and measured: only then its socket is there
  startupProbe:
    exec:
      command: [/opt/microturn/bin/python, /opt/microturn/health.py, model, {{ $socket }}]
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div (add $model.startupSeconds 4) 5 }}
  # its loop answers; whether calls are admitted is the gateway's readiness
  livenessProbe:
    exec:
      command: [/opt/microturn/bin/python, /opt/microturn/health.py, model, {{ $socket }}]
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  lifecycle:
    preStop:
      # the containers of a pod are ended at the same time: this one stays until the gateway has drained
      exec:
        command:
          - /opt/microturn/bin/python
          - /opt/microturn/health.py
          - gone
          - {{ $root.Values.gateway.http.port | quote }}
          - {{ sub $root.Values.drain.gracePeriodSeconds 3 | quote }}
  resources:
    {{- $resources := deepCopy $model.resources }}
    {{- if $model.gpu.count }}
    {{- $gpus := dict $model.gpu.resource ($model.gpu.count | toString) }}
    {{- $resources = mergeOverwrite $resources (dict "limits" $gpus "requests" $gpus) }}
    {{- end }}
    {{- toYaml $resources | nindent 4 }}
  volumeMounts:
    - {name: run, mountPath: /run/microturn}
    - {name: shm{{ $of }}, mountPath: /dev/shm}
    - {name: model-tmp{{ $of }}, mountPath: /tmp}
{{- end -}}
