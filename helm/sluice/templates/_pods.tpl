{{/* What every pod has: no token of the cluster, no variables of services (they begin with SLUICE_ too), no root. */}}
{{- define "sluice.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "sluice.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Files of a Secret that the pod's user alone may read. Takes secret, and items: its keys with the names of their files. */}}
{{- define "sluice.secretVolume" -}}
secret:
  secretName: {{ .secret }}
  defaultMode: 0440
  items:
    {{- range $key, $path := .items }}
    - {key: {{ $key }}, path: {{ $path }}}
    {{- end }}
{{- end }}

{{/* Where a pod runs. Takes what has nodeSelector, tolerations and priorityClassName. */}}
{{- define "sluice.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The variables that say where the stores are: of gateways, of the migration and of verbs that are run in them. */}}
{{- define "sluice.stores" -}}
- name: SLUICE_CONFIG
  value: /etc/sluice/sluice.yaml
- name: SLUICE_HOME
  value: /var/lib/sluice
{{- if eq .Values.database.kind "postgresql" }}
- name: SLUICE_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.key }}}
{{- end }}
{{- if eq .Values.redis.kind "external" }}
- name: SLUICE_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.key }}}
{{- else if eq .Values.redis.kind "bundled" }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "sluice.tokens" . }}, key: redis-password}
- name: SLUICE_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "sluice.fullname" . }}-redis:6379/0
{{- end }}
{{- end }}

{{- define "sluice.tokenVariables" -}}
- name: SLUICE_ADMIN_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "sluice.tokens" . }}, key: admin-token}
- name: SLUICE_WORKER_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "sluice.tokens" . }}, key: worker-token}
- name: SLUICE_JOBS__WEBHOOK_SECRET
  valueFrom:
    secretKeyRef: {name: {{ include "sluice.tokens" . }}, key: webhook-secret}
{{- end }}

{{/* A container that runs one verb on the database and ends. Takes root, name, args and stores. */}}
{{- define "sluice.verbContainer" -}}
name: {{ .name }}
image: {{ include "sluice.image" (dict "root" .root "image" .root.Values.gateway.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- include "sluice.stores" .stores | nindent 2 }}
{{- include "sluice.containerSecurity" .root | nindent 0 }}
resources:
  {{- toYaml .root.Values.migration.resources | nindent 2 }}
volumeMounts:
  - {name: home, mountPath: /var/lib/sluice}
  - {name: config, mountPath: /etc/sluice, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- end }}
