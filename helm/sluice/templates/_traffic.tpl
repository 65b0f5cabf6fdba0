{{- define "sluice.peer" -}}
podSelector:
  matchLabels:
    {{- include "sluice.selector" . | nindent 4 }}
{{- end }}

{{- define "sluice.dns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "sluice.traffic.gateway" -}}
ingress:
  - ports:
      - {protocol: TCP, port: 8080}
    {{- with .Values.networkPolicy.clients }}
    from:
      - {{- include "sluice.peer" (dict "root" $ "component" "worker") | nindent 8 }}
      - {{- include "sluice.peer" (dict "root" $ "component" "scaler") | nindent 8 }}
      - namespaceSelector:
          matchLabels: {kubernetes.io/metadata.name: {{ $.Values.networkPolicy.monitoringNamespace }}}
      {{- toYaml . | nindent 6 }}
    {{- end }}
egress:
  {{- include "sluice.dns" . | nindent 2 }}
  - to:
      - {{- include "sluice.peer" (dict "root" . "component" "worker") | nindent 8 }}
    ports:
      - {protocol: TCP, port: {{ .Values.worker.port }}}
  {{- if eq .Values.redis.kind "bundled" }}
  - to:
      - {{- include "sluice.peer" (dict "root" . "component" "redis") | nindent 8 }}
    ports:
      - {protocol: TCP, port: 6379}
  {{- end }}
  - to: # the database, Redis, receivers of webhooks
      - ipBlock: {cidr: {{ .Values.networkPolicy.egressCidr }}}
    ports:
      - {protocol: TCP, port: {{ .Values.database.port }}}
      - {protocol: TCP, port: {{ .Values.redis.port }}}
      {{- with .Values.redis.sentinelPort }}
      - {protocol: TCP, port: {{ . }}}
      {{- end }}
      - {protocol: TCP, port: 443}
{{- end }}

{{- define "sluice.traffic.worker" -}}
ingress:
  - from:
      - {{- include "sluice.peer" (dict "root" . "component" "gateway") | nindent 8 }}
      - namespaceSelector:
          matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace }}}
    ports:
      - {protocol: TCP, port: {{ .Values.worker.port }}}
  - from: # engines of several nodes speak to one another on ports of their own choice
      - {{- include "sluice.peer" (dict "root" . "component" "worker") | nindent 8 }}
      - {{- include "sluice.peer" (dict "root" . "component" "worker-node") | nindent 8 }}
egress:
  {{- include "sluice.dns" . | nindent 2 }}
  - to:
      - {{- include "sluice.peer" (dict "root" . "component" "gateway") | nindent 8 }}
    ports:
      - {protocol: TCP, port: 8080}
  - to:
      - {{- include "sluice.peer" (dict "root" . "component" "worker") | nindent 8 }}
      - {{- include "sluice.peer" (dict "root" . "component" "worker-node") | nindent 8 }}
  - to: # downloads of models, gateways by https
      - ipBlock: {cidr: {{ .Values.networkPolicy.egressCidr }}}
    ports:
      - {protocol: TCP, port: 443}
{{- end }}

{{- define "sluice.traffic.redis" -}}
ingress:
  - from:
      - {{- include "sluice.peer" (dict "root" . "component" "gateway") | nindent 8 }}
    ports:
      - {protocol: TCP, port: 6379}
egress: []
{{- end }}

{{- define "sluice.traffic.scaler" -}}
ingress:
  - from:
      - namespaceSelector:
          matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.kedaNamespace }}}
    ports:
      - {protocol: TCP, port: {{ .Values.scaling.scaler.port }}}
egress:
  {{- include "sluice.dns" . | nindent 2 }}
  - to:
      - {{- include "sluice.peer" (dict "root" . "component" "gateway") | nindent 8 }}
    ports:
      - {protocol: TCP, port: 8080}
{{- end }}

{{- define "sluice.traffic.migration" -}}
ingress: []
egress:
  {{- include "sluice.dns" . | nindent 2 }}
  - to:
      - ipBlock: {cidr: {{ .Values.networkPolicy.egressCidr }}}
    ports:
      - {protocol: TCP, port: {{ .Values.database.port }}}
{{- end }}
