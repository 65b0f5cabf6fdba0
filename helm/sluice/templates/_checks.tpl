{{/* What a schema cannot say: values that contradict one another. */}}
{{- define "sluice.checks" -}}
{{- $gateways := ternary .Values.gateway.autoscaling.max .Values.gateway.replicas .Values.gateway.autoscaling.enabled | int -}}
{{- if and (eq .Values.database.kind "sqlite") (gt $gateways 1) -}}
{{- fail (printf "database.kind is sqlite, which lies on the volume of one gateway, but %d gateways may run: set gateway.replicas to 1 and gateway.autoscaling.enabled to false, or database.kind to postgresql." $gateways) -}}
{{- end -}}
{{- if and (eq .Values.redis.kind "none") (gt $gateways 1) -}}
{{- fail (printf "redis.kind is none, but %d gateways may run: without Redis each has a line and a roster of its own. Set gateway.replicas to 1, or redis.kind to external or bundled." $gateways) -}}
{{- end -}}
{{- if and (eq .Values.redis.kind "bundled") (not .Values.secrets.generate) (not .Values.secrets.existingSecret) -}}
{{- fail "redis.kind is bundled, but there is no Secret with its redis-password: set secrets.existingSecret, or secrets.generate for a trial." -}}
{{- end -}}
{{- if and .Values.gateway.objects.enabled (gt $gateways 1) (eq .Values.gateway.objects.accessMode "ReadWriteOnce") -}}
{{- fail (printf "gateway.objects.accessMode is ReadWriteOnce, but %d gateways may run and must share the folder of jobs: use ReadWriteMany, or set gateway.objects.enabled to false and offer no jobs." $gateways) -}}
{{- end -}}
{{- if gt (int .Values.gateway.autoscaling.min) (int .Values.gateway.autoscaling.max) -}}
{{- fail (printf "gateway.autoscaling.min (%d) is above gateway.autoscaling.max (%d)." (int .Values.gateway.autoscaling.min) (int .Values.gateway.autoscaling.max)) -}}
{{- end -}}
{{- range $name, $pool := .Values.pools -}}
{{- include "sluice.checkPool" (dict "root" $ "name" $name "pool" $pool) -}}
{{- end -}}
{{- end }}

{{- define "sluice.checkPool" -}}
{{- $min := include "sluice.workersMin" . | int -}}
{{- $max := include "sluice.workersMax" . | int -}}
{{- if gt $min $max -}}
{{- fail (printf "pools.%s.workers.min (%d) is above its workers.max (%d)." .name $min $max) -}}
{{- end -}}
{{- if and (eq $max 0) .root.Values.scaling.enabled -}}
{{- fail (printf "pools.%s.workers.max is 0, so that it could never run: set it to 1 or more." .name) -}}
{{- end -}}
{{- if and (eq $min 0) (not .root.Values.scaling.enabled) -}}
{{- fail (printf "pools.%s.workers.min is 0, but scaling.enabled is false: nobody would start its first worker. Set it to 1 or more, or enable scaling." .name) -}}
{{- end -}}
{{- if and (include "sluice.workerTls" . | fromJson | dig "ca" "existingSecret" "") (not (contains "=https://" (include "sluice.gatewayArguments" .))) -}}
{{- fail (printf "pools.%s has an authority to trust gateways by (tls.ca), but its workers report to none by https: set worker.gateways, or the pool's kubernetes.gateways, to https://…" .name) -}}
{{- end -}}
{{- end }}
