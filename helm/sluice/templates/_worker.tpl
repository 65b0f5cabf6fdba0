{{/* What stands under `metadata` of a worker's pod. Takes root, name and pool. */}}
{{- define "sluice.workerMetadata" -}}
labels:
  {{- include "sluice.selector" (dict "root" .root "component" "worker" "pool" .name) | nindent 2 }}
{{- with (default dict .pool.kubernetes).podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What a worker's pods have in common, also those of a group's other nodes. */}}
{{- define "sluice.workerPod" -}}
{{- $own := default dict .pool.kubernetes -}}
{{- $common := .root.Values.worker -}}
serviceAccountName: {{ include "sluice.fullname" .root }}-worker
{{- include "sluice.podSecurity" .root | nindent 0 }}
{{- include "sluice.placement" (dict "nodeSelector" (default $common.nodeSelector $own.nodeSelector) "tolerations" (default $common.tolerations $own.tolerations) "priorityClassName" (default $common.priorityClassName $own.priorityClassName)) | nindent 0 }}
{{- with default $common.runtimeClassName $own.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ add (include "sluice.drainSeconds" . | int) 30 }}
volumes:
  - name: home
    emptyDir: {sizeLimit: {{ default $common.scratchSize $own.scratchSize }}}
  - name: tmp
    emptyDir: {sizeLimit: {{ default $common.scratchSize $own.scratchSize }}}
  - name: shm # between the processes of an engine
    emptyDir: {medium: Memory, sizeLimit: {{ default $common.shmSize $own.shmSize }}}
  {{- with $own.cache }}
  - name: models
    {{- if .hostPath }}
    hostPath: {path: {{ .hostPath }}, type: Directory}
    {{- else }}
    persistentVolumeClaim: {claimName: {{ .claim }}}
    {{- end }}
  {{- end }}
  {{- with include "sluice.engineCertificate" . }}
  - name: tls
    {{- include "sluice.secretVolume" (dict "secret" . "items" (dict "tls.crt" "tls.crt" "tls.key" "tls.key")) | nindent 4 }}
  {{- end }}
  {{- $ca := include "sluice.workerTls" . | fromJson | dig "ca" dict }}
  {{- if $ca.existingSecret }}
  - name: ca
    {{- include "sluice.secretVolume" (dict "secret" $ca.existingSecret "items" (dict (default "ca.crt" $ca.key) "ca.crt")) | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "sluice.workerMounts" -}}
volumeMounts:
  - {name: home, mountPath: /var/lib/sluice}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  {{- if (default dict .pool.kubernetes).cache }}
  - {name: models, mountPath: /models}
  {{- end }}
  {{- if include "sluice.engineCertificate" . }}
  - {name: tls, mountPath: /etc/sluice-tls, readOnly: true}
  {{- end }}
  {{- if include "sluice.workerTls" . | fromJson | dig "ca" "existingSecret" "" }}
  - {name: ca, mountPath: /etc/sluice-ca, readOnly: true}
  {{- end }}
{{- end }}

{{/* What the containers of a worker's nodes have in common. */}}
{{- define "sluice.workerCommon" -}}
{{- $own := default dict .pool.kubernetes -}}
name: worker
image: {{ include "sluice.image" (dict "root" .root "image" (default .root.Values.worker.image $own.image)) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- if include "sluice.engineCertificate" . }}
command: # of the pod's address the name that DNS has for it, which a certificate can be for; no variable has it
  - sh
  - -c
  - 'exec "$0" "$@" --advertise-host="`echo $POD_IP | tr :. -`.{{ include "sluice.enginesDomain" . }}"'
  - sluice
{{- end }}
args:
  {{- include "sluice.workerArguments" . | nindent 2 }}
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_IP
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
  - name: SLUICE_WORKER_TOKEN
    valueFrom:
      {{- with $own.token }}
      secretKeyRef: {name: {{ .existingSecret }}, key: {{ default "token" .key }}}
      {{- else }}
      secretKeyRef: {name: {{ include "sluice.tokens" .root }}, key: worker-token}
      {{- end }}
  {{- with .root.Values.worker.hub }}
  {{- if .endpoint }}
  - {name: SLUICE_HUB__ENDPOINT, value: {{ .endpoint | quote }}}
  {{- end }}
  {{- if .tokenSecret }}
  - name: SLUICE_HUB__TOKEN
    valueFrom:
      secretKeyRef: {name: {{ .tokenSecret }}, key: {{ .tokenKey }}}
  {{- end }}
  {{- end }}
  - {name: HOME, value: /var/lib/sluice}
{{- include "sluice.containerSecurity" .root | nindent 0 }}
resources:
  {{- include "sluice.workerResources" . | nindent 2 }}
{{- include "sluice.workerMounts" . | nindent 0 }}
{{- end }}

{{/* The container of the agent and its engine. */}}
{{- define "sluice.workerContainer" -}}
{{- $start := default .root.Values.worker.startupSeconds (default dict .pool.kubernetes).startupSeconds | int -}}
{{- $health := printf "{path: /health, port: engine%s}" (ternary ", scheme: HTTPS" "" (ne (include "sluice.engineCertificate" .) "")) -}}
{{ include "sluice.workerCommon" . }}
ports:
  - {name: engine, containerPort: {{ .root.Values.worker.port }}}
# /health is the engine's. That a worker is ready for requests its agent tells the gateways, after a real completion.
startupProbe:
  httpGet: {{ $health }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ div (add $start 9) 10 }}
readinessProbe:
  httpGet: {{ $health }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe: # the agent starts a crashed engine again: only one that stays away for as long as a start may take is given up
  httpGet: {{ $health }}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: {{ add 2 (div (add $start 29) 30) }}
{{- end }}

{{/* A further node of an engine that spans several. It lends its devices until the leader has drained. */}}
{{- define "sluice.followerContainer" -}}
{{ include "sluice.workerCommon" . }}
lifecycle:
  preStop:
    sleep: {seconds: {{ max 1 (include "sluice.drainSeconds" . | int) }}}
{{- end }}
