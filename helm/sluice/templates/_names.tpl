{{- define "sluice.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* What pods are selected by, and all that they bear: a label with a version would restart every engine for its sake.
Takes root, component and, for a pool, its name. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
sluice/pool: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The reference of one of Sluice's own images. Takes root and image. */}}
{{- define "sluice.image" -}}
{{- with .root.Values.image.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "sluice.tokens" -}}
{{ if .Values.secrets.generate }}{{ include "sluice.fullname" . }}-tokens{{ else }}{{ .Values.secrets.existingSecret }}{{ end }}
{{- end }}

{{/* The name of what belongs to a pool: it names hosts too, which have no dots. Takes root and pool. */}}
{{- define "sluice.poolName" -}}
{{ printf "%s-%s" (include "sluice.fullname" .root) .pool | replace "." "-" | trunc 52 | trimSuffix "-" }}
{{- end }}
