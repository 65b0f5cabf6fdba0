{{- define "sluice.notes" -}}
{{- $name := include "sluice.fullname" . -}}
Sluice {{ .Chart.AppVersion }} is installed as {{ .Release.Name }} in {{ .Release.Namespace }}.

Wait until the first gateway runs, then declare who may ask:

  kubectl -n {{ .Release.Namespace }} wait pod/{{ $name }}-gateway-0 --for=jsonpath='{.status.phase}'=Running --timeout=600s
  kubectl -n {{ .Release.Namespace }} exec {{ $name }}-gateway-0 -- sluice tenants create acme
  kubectl -n {{ .Release.Namespace }} exec {{ $name }}-gateway-0 -- sluice keys create --tenant acme
  kubectl -n {{ .Release.Namespace }} rollout status statefulset/{{ $name }}-gateway

Reach it from here:

  kubectl -n {{ .Release.Namespace }} port-forward service/{{ $name }}-gateway 8080:{{ .Values.gateway.service.port }}
  curl -s http://127.0.0.1:8080/readyz
{{ if .Values.pools }}
{{- $first := keys .Values.pools | sortAlpha | first }}
{{- $pool := index .Values.pools $first }}
  curl -s http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
    -d '{"model": {{ first (default (list $first) $pool.serves) | toJson }}, "messages": [{"role": "user", "content": "Hello!"}]}'
{{ else }}
There is no pool yet: declare one under `pools` and upgrade. Gateways are ready once anything is declared: a pool, or the tenant above.
{{ end }}
{{- if .Values.secrets.generate }}
The tokens were made by Helm and lie in the Secret {{ include "sluice.tokens" . }}. For production make them yourself and name that Secret.
{{- end }}
{{- if eq .Values.database.kind "sqlite" }}
The ledger is a SQLite file on the volume home-{{ $name }}-gateway-0: a trial. Back that volume up if you care for it.
{{- end }}
{{- if not .Values.gateway.objects.enabled }}
There is no folder that all gateways share: a job that one takes in another cannot run. Do not send `Prefer: respond-async`.
{{- end }}
{{- end }}
